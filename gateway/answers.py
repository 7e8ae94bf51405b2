"""Which answer of the model is asked for, running, unwanted or still owed.

The service runs one response at a time and says so with an error; a cancel that comes before
``response.created`` has no effect. Both races are settled here, in one place.
"""

from gateway.events import CreateResponse

# Tool answers in a row without a sound; a model that goes on is talking to itself.
TOOL_ROUNDS_LIMIT = 5
# How often a create that met a running response is sent again without hearing of that response.
BUSY_LIMIT = 3


class Answers:
    """Keeps track of the one running response."""

    def __init__(self) -> None:
        self.active = ""
        self.latest = ""
        self.has_sound = False
        self.failures = 0
        # What the running or failed answer was asked for with.
        self.question = CreateResponse()
        self._is_asked = False
        self._is_unwanted = False
        self._is_unsettled = False
        self._queued: CreateResponse | None = None
        self._owes_tool_answer = False
        self._tool_rounds = 0
        self._busy = 0

    @property
    def is_pending(self) -> bool:
        """An answer is running, asked for or about to be asked for."""
        return bool(self.active or self._is_asked or self._queued or self._owes_tool_answer)

    def ask(self, command: CreateResponse) -> list[CreateResponse]:
        """Ask now, or as soon as the running answer is done."""
        if self.active or self._is_asked:
            self._queued = command
            return []
        self._is_asked = self._is_unsettled = True
        self.question = command
        return [command]

    def expect(self) -> None:
        """The service begins the next answer by itself."""
        self.question = CreateResponse()

    def refused(self, *, is_ours: bool) -> list[CreateResponse]:
        """A create met a running response: ask again when that is done, or now if it is.

        Not if the caller has meanwhile taken the turn: nobody waits for that answer any more; what
        was asked for later still is. Not if the service does not say whose create it was and ours
        seems to have been answered.
        """
        if not is_ours and (not self._is_unsettled or (self.active and not self._is_asked)):
            return []
        command = self._queued if self._is_unwanted else self.question
        self._queued = None
        self.forget()
        self._busy += 1
        return self.ask(command) if command and self._busy <= BUSY_LIMIT else []

    def forget(self) -> None:
        """The create we sent will not be answered."""
        self._is_asked = self._is_unwanted = self._is_unsettled = False

    def started(self, response_id: str) -> bool:
        """A response began; false when the caller has meanwhile interrupted it."""
        is_wanted = not (self._is_asked and self._is_unwanted)
        self._is_asked = self._is_unwanted = False
        self.active = self.latest = response_id
        self.has_sound = False
        return is_wanted

    def sounded(self, response_id: str) -> None:
        """The running answer is heard: whatever failed before is forgiven."""
        self.active = self.active or response_id
        self.has_sound = True
        self.failures = self._tool_rounds = self._busy = 0

    def tool_called(self) -> bool:
        """A tool call was answered; false after too many rounds of them without a sound."""
        self._owes_tool_answer = self._tool_rounds < TOOL_ROUNDS_LIMIT
        return self._owes_tool_answer

    def interrupt(self) -> str:
        """The caller speaks: nothing is owed any more. Returns the running response, "" if none."""
        self._is_unwanted = self._is_asked
        self._is_unsettled = self._is_asked
        self._queued = None
        self._owes_tool_answer = False
        return self.active

    def is_stale(self, response_id: str) -> bool:
        """Whether this is the end of an answer that is over already, told twice or late."""
        return response_id != self.active and bool(self.active or response_id == self.latest)

    def done(self) -> list[CreateResponse]:
        """The running response is over; returns what is to be asked next."""
        self.active = ""
        self._tool_rounds += self._owes_tool_answer
        command = CreateResponse() if self._owes_tool_answer else self._queued
        self._owes_tool_answer, self._queued = False, None
        return self.ask(command) if command else []
