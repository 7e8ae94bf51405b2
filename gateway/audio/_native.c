/* One stream of sound, one call a frame: decode, resample, round, saturate, encode.
 *
 * Optional: where it cannot be built, numpy does the same (resample.py), bit for bit. It knows no
 * filter and no G.711: compiled.py hands over the weights and the tables, made in the same place as
 * numpy's.
 *
 * What it does: a window of `width` samples slides over the sound, `down` samples a step, and gives
 * `up` output samples at each step. An output is the sum of sample times weight over the window, a
 * weight counting steps of 2^-24.
 *
 * Why it is exact and fast: a weight of 26 bits comes in two halves, high * 1024 + low, each of
 * them an int16. Products of int16 summed in int32 are what every vector unit does in one
 * instruction, and new_stream() refuses weights whose sums could leave an int32. So nothing is ever
 * rounded but the result, and the order of summing, hence the compiler, cannot change it.
 *
 * The interpreter's lock is held throughout (a frame takes some microseconds), so streams need no
 * lock of their own.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "samples are little-endian here and on the wire: big-endian machines take numpy"
#endif

enum {
    WIDTH_STEP = 16,      /* windows are whole vector registers long */
    MOST_WIDTH = 272,     /* 48 to 8 kHz, the longest filter there is */
    MOST_RATIO = 6,       /* `up` and `down`, 8 to 48 kHz and back */
    PIECE = 1024,         /* samples worked on at once: bounds the stack, stays in the cache */
    MOST_REPEATED = 9600, /* bytes of a payload that is remembered: bounds the memory of a call */
    LOW_HALF = 1024,      /* weight = high * LOW_HALF + low */
    ONE = 1 << 24,        /* the weight that leaves a sample as it is */
    DECODE_BYTES = 512,   /* an int16 for each byte */
    ENCODE_BYTES = 16384, /* a byte for each sample without its two lowest bits: G.711 drops them */
};

/* All that is remembered of earlier payloads, as far as it is heard in later ones. */
typedef struct {
    int kept; /* samples: width - down of history, then a step that has begun */
    int has_half;
    unsigned char half; /* the first byte of a sample whose second has not come */
    int16_t sound[MOST_WIDTH];
} Memory;

typedef struct {
    PyObject_HEAD
    PyObject *weights; /* bytes: for each output of a step the high halves, then the low halves */
    PyObject *decode;  /* bytes, or None: the payload is PCM */
    PyObject *encode;  /* bytes, or None: PCM is asked for */
    int up, down, width;
    int tail; /* samples of silence that push out the last sound */
    Memory memory;

    /* bytes, or both NULL: a payload that left the memory as it was, and what came of it. As long
     * as it is repeated, the same comes again: lasting silence costs next to nothing. */
    PyObject *repeated, *answer;
} Stream;

/* -------------------------------------------------------------------------------- arithmetic */

static int history(const Stream *self) { return self->width - self->down; }

static int16_t saturated(int64_t level)
{
    /* Right shifts of negative numbers round down on every compiler Python is built with. */
    int64_t sample = (level + ONE / 2) >> 24;
    return (int16_t)(sample < INT16_MIN ? INT16_MIN : sample > INT16_MAX ? INT16_MAX : sample);
}

static int16_t weighed(const int16_t *window, const int16_t *high, const int16_t *low, int width)
{
    int32_t high_sum = 0, low_sum = 0;
    for (int i = 0; i < width / WIDTH_STEP * WIDTH_STEP; i++) {
        high_sum += window[i] * high[i];
        low_sum += window[i] * low[i];
    }
    return saturated((int64_t)high_sum * LOW_HALF + low_sum);
}

static unsigned char *put(const unsigned char *table, int16_t sample, unsigned char *out)
{
    if (table == NULL) {
        memcpy(out, &sample, sizeof sample);
        return out + sizeof sample;
    }
    *out = table[(sample - INT16_MIN) >> 2];
    return out + 1;
}

static const unsigned char *table_of(PyObject *bytes)
{
    return bytes == Py_None ? NULL : (const unsigned char *)PyBytes_AS_STRING(bytes);
}

static unsigned char *resample(const Stream *self, const int16_t *sound, int steps,
                               unsigned char *out)
{
    const int16_t *weights = (const int16_t *)PyBytes_AS_STRING(self->weights);
    const unsigned char *table = table_of(self->encode);
    for (; steps > 0; steps--, sound += self->down)
        for (int i = 0; i < self->up; i++) {
            const int16_t *high = weights + 2 * i * self->width;
            out = put(table, weighed(sound, high, high + self->width, self->width), out);
        }
    return out;
}

/* ------------------------------------------------------------------------------------ stream */

static int source_bytes(const Stream *self) { return self->decode == Py_None ? 2 : 1; }

/* No payload is silence. */
static void decode(const Stream *self, const unsigned char *payload, int samples, int16_t *sound)
{
    if (payload == NULL)
        memset(sound, 0, samples * sizeof *sound);
    else if (self->decode == Py_None)
        memcpy(sound, payload, samples * sizeof *sound);
    else {
        const int16_t *table = (const int16_t *)PyBytes_AS_STRING(self->decode);
        for (int i = 0; i < samples; i++)
            sound[i] = table[payload[i]];
    }
}

/* Take samples in, write what comes of them to `out`; returns the end of what was written. */
static unsigned char *feed(Stream *self, const unsigned char *payload, Py_ssize_t samples,
                           unsigned char *out)
{
    int16_t sound[MOST_WIDTH + PIECE];
    while (samples > 0) {
        int piece = samples < PIECE ? (int)samples : PIECE;
        memcpy(sound, self->memory.sound, self->memory.kept * sizeof *sound);
        decode(self, payload, piece, sound + self->memory.kept);
        int present = self->memory.kept + piece;
        int steps = (present - history(self)) / self->down;
        out = resample(self, sound, steps, out);
        self->memory.kept = present - steps * self->down;
        memcpy(self->memory.sound, sound + steps * self->down, self->memory.kept * sizeof *sound);
        samples -= piece;
        if (payload != NULL)
            payload += piece * source_bytes(self);
    }
    return out;
}

/* A new bytes object with room for just what so many samples more give; NULL is an error. */
static PyObject *room_for(const Stream *self, Py_ssize_t samples)
{
    if (samples > PY_SSIZE_T_MAX / (2 * MOST_RATIO) - MOST_WIDTH)
        return PyErr_NoMemory();
    Py_ssize_t steps = (self->memory.kept - history(self) + samples) / self->down;
    return PyBytes_FromStringAndSize(NULL, steps * self->up * (self->encode == Py_None ? 2 : 1));
}

static void forget(Stream *self)
{
    memset(&self->memory, 0, sizeof self->memory);
    self->memory.kept = history(self);
    Py_CLEAR(self->repeated);
    Py_CLEAR(self->answer);
}

static PyObject *converted(Stream *self, const unsigned char *payload, Py_ssize_t size)
{
    int unit = source_bytes(self);
    PyObject *result = room_for(self, (self->memory.has_half + size) / unit);
    if (result == NULL)
        return NULL;
    unsigned char *out = (unsigned char *)PyBytes_AS_STRING(result);
    if (self->memory.has_half && size) {
        const unsigned char sample[2] = {self->memory.half, *payload++};
        size--;
        self->memory.has_half = 0;
        out = feed(self, sample, 1, out);
    }
    feed(self, payload, size / unit, out);
    if (size % unit) {
        self->memory.half = payload[size - 1];
        self->memory.has_half = 1;
    }
    return result;
}

static int is_repeated(const Stream *self, const Py_buffer *view)
{
    return self->repeated != NULL && PyBytes_GET_SIZE(self->repeated) == view->len &&
           memcmp(PyBytes_AS_STRING(self->repeated), view->buf, view->len) == 0;
}

/* Remember a payload and its answer if it left the memory as it was before. */
static void note(Stream *self, const Memory *before, const Py_buffer *view, PyObject *answer)
{
    Py_CLEAR(self->repeated);
    Py_CLEAR(self->answer);
    if (view->len > MOST_REPEATED || memcmp(before, &self->memory, sizeof *before) != 0)
        return;
    self->repeated = PyBytes_FromStringAndSize(view->buf, view->len);
    if (self->repeated == NULL)
        PyErr_Clear(); /* no room: it will be worked out again */
    else
        self->answer = Py_NewRef(answer);
}

/* ----------------------------------------------------------------------------- Python's face */

static PyObject *stream_convert(PyObject *object, PyObject *payload)
{
    Py_buffer view;
    if (PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    Stream *self = (Stream *)object;
    PyObject *result;
    if (is_repeated(self, &view))
        result = Py_NewRef(self->answer);
    else {
        Memory before;
        memcpy(&before, &self->memory, sizeof before); /* padding too: it will be compared */
        result = converted(self, view.buf, view.len);
        if (result != NULL)
            note(self, &before, &view, result);
    }
    PyBuffer_Release(&view);
    return result;
}

static PyObject *stream_flush(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Stream *self = (Stream *)object;
    PyObject *result = room_for(self, self->tail);
    if (result == NULL)
        return NULL;
    feed(self, NULL, self->tail, (unsigned char *)PyBytes_AS_STRING(result));
    forget(self);
    return result;
}

static PyObject *stream_reset(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    forget((Stream *)object);
    Py_RETURN_NONE;
}

/* Whether no window of samples makes a sum of products that an int32 cannot hold. */
static int is_exact(const int16_t *halves, int outputs, int width)
{
    for (int i = 0; i < 2 * outputs; i++) {
        int64_t most = 0;
        for (int j = 0; j < width; j++)
            most += (int64_t)abs(halves[i * width + j]) * -INT16_MIN;
        if (most > INT32_MAX)
            return 0;
    }
    return 1;
}

static int is_table(PyObject *object, Py_ssize_t size)
{
    return object == Py_None || (PyBytes_Check(object) && PyBytes_GET_SIZE(object) == size);
}

/* What is wrong with a description of a stream; NULL if nothing is. */
static const char *problem(PyObject *weights, int up, int down, int tail, PyObject *decode,
                           PyObject *encode)
{
    if (up < 1 || up > MOST_RATIO || down < 1 || down > MOST_RATIO)
        return "up and down are 1 to 6";
    Py_ssize_t row = 2 * sizeof(int16_t) * up, width = PyBytes_GET_SIZE(weights) / row;
    if (PyBytes_GET_SIZE(weights) % row || width % WIDTH_STEP || !width || width > MOST_WIDTH)
        return "a window is 16 to 272 samples, in steps of 16";
    if (!is_exact((const int16_t *)PyBytes_AS_STRING(weights), up, (int)width))
        return "the weights are too large to be exact";
    if (tail < 0 || tail > MOST_WIDTH)
        return "a tail is 0 to 272 samples";
    if (!is_table(decode, DECODE_BYTES) || !is_table(encode, ENCODE_BYTES))
        return "a table is None or bytes: 512 to decode, 16384 to encode";
    return NULL;
}

static PyObject *new_stream(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"weights", "up", "down", "tail", "decode", "encode", NULL};
    PyObject *weights, *decode, *encode;
    int up, down, tail;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "SiiiOO:Stream", names, &weights, &up, &down,
                                     &tail, &decode, &encode))
        return NULL;
    const char *wrong = problem(weights, up, down, tail, decode, encode);
    if (wrong != NULL) {
        PyErr_SetString(PyExc_ValueError, wrong);
        return NULL;
    }
    Stream *self = (Stream *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->weights = Py_NewRef(weights);
    self->decode = Py_NewRef(decode);
    self->encode = Py_NewRef(encode);
    self->up = up;
    self->down = down;
    self->tail = tail;
    self->width = (int)(PyBytes_GET_SIZE(weights) / (Py_ssize_t)(2 * sizeof(int16_t)) / up);
    forget(self);
    return (PyObject *)self;
}

static void free_stream(PyObject *object)
{
    Stream *self = (Stream *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->weights);
    Py_XDECREF(self->decode);
    Py_XDECREF(self->encode);
    Py_XDECREF(self->repeated);
    Py_XDECREF(self->answer);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef stream_methods[] = {
    {"convert", stream_convert, METH_O,
     "What can be told so far; a part of a sample waits for the next payload."},
    {"flush", stream_flush, METH_NOARGS,
     "The sound still inside; afterwards the stream is as new."},
    {"reset", stream_reset, METH_NOARGS, "Forget everything heard so far."},
    {NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "One stream of mono audio; compiled.py says what it is made of."},
    {Py_tp_new, new_stream},
    {Py_tp_dealloc, free_stream},
    {Py_tp_methods, stream_methods},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "gateway.audio._native.Stream",
    .basicsize = sizeof(Stream),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = stream_slots,
};

static int fill_module(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&stream_spec);
    int result = type == NULL ? -1 : PyModule_AddObjectRef(module, "Stream", type);
    Py_XDECREF(type);
    return result;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill_module}, {0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The compiled converter.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module); }
