// The extension module: arguments, threads, and the choice of an instruction set.
//
// Each function takes (bytes of a float: 8 or 4; x, a cotangent, the result and what is known of the rows, each as an
// object with a buffer or as an address; shape; axis, or None for all; threads) and returns None. The caller vouches for
// types and sizes; 0 is an array that is not there.

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#define NOINLINE __attribute__((noinline)) static

struct Arguments {
    void *x, *g, *out, *rows;
    long outer, n, inner, threads;
};

typedef void (*Run)(const Arguments&);

constexpr long MOST_THREADS = 64;

// ---------------------------------------------------------------------------------------------------------------------
// Threads are made for a call and joined: 20 microseconds, but nothing to be kept over a fork, and nothing that spins

struct Range {
    void (*function)(void*, long, long);
    void* context;
    long from, to;
};

static void* run_range(void* argument) {
    Range& range = *(Range*)argument;
    range.function(range.context, range.from, range.to);
    return nullptr;
}

static void parallel(long threads, long count, void (*function)(void*, long, long), void* context) {
    if (threads > count) threads = count;
#ifndef _WIN32
    pthread_t made[MOST_THREADS];
    Range ranges[MOST_THREADS];
    bool running[MOST_THREADS];
    for (long i = 1; i < threads; i++) {
        ranges[i] = Range{function, context, count * i / threads, count * (i + 1) / threads};
        running[i] = pthread_create(&made[i], nullptr, run_range, &ranges[i]) == 0;
    }
    function(context, 0, threads > 1 ? count / threads : count);
    for (long i = 1; i < threads; i++) {
        if (running[i])
            pthread_join(made[i], nullptr);
        else
            run_range(&ranges[i]);
    }
#else
    function(context, 0, count);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// The same source for each instruction set

#define BYTES 16
namespace baseline {
#include "elementary.hpp"
#include "lanes.hpp"
#include "state.hpp"
#include "functions.hpp"
#include "entry.hpp"
}  // namespace baseline

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEVERAL
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#undef BYTES
#define BYTES 32
namespace avx2 {
#include "elementary.hpp"
#include "lanes.hpp"
#include "state.hpp"
#include "functions.hpp"
#include "entry.hpp"
}  // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma")
#undef BYTES
#define BYTES 64
namespace avx512 {
#include "elementary.hpp"
#include "lanes.hpp"
#include "state.hpp"
#include "functions.hpp"
#include "entry.hpp"
}  // namespace avx512
#pragma GCC pop_options
#endif

struct Set {
    const char* name;
    const Run (*runs)[6];
};

// Those that this processor has, the fastest first.
static Set sets[3];
static int count_of_sets = 0;
static const Run (*runs)[6];

static void look_at_processor() {
    count_of_sets = 0;
#ifdef SEVERAL
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        sets[count_of_sets++] = Set{"AVX-512", avx512::RUNS};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        sets[count_of_sets++] = Set{"AVX2", avx2::RUNS};
#endif
    sets[count_of_sets++] = Set{"baseline", baseline::RUNS};
    runs = sets[0].runs;
}

// ---------------------------------------------------------------------------------------------------------------------
// Python

constexpr long FEW = 10000;  // entries, for which another thread would not get the interpreter in time

// An address, or an object with a buffer whose address it is.
static bool address_of(PyObject* given, void** address, Py_buffer* view) {
    view->obj = nullptr;
    if (PyLong_Check(given)) {
        *address = PyLong_AsVoidPtr(given);
        return *address || !PyErr_Occurred();
    }
    if (PyObject_GetBuffer(given, view, PyBUF_SIMPLE) < 0) return false;
    *address = view->buf;
    return true;
}

// (outer, n, inner) of a shape that is reduced along an axis, or along all for None.
static bool look_at_shape(PyObject* shape, PyObject* along, Arguments& a) {
    if (!PyTuple_Check(shape)) {
        PyErr_Format(PyExc_TypeError, "a shape is a tuple, not %R", shape);
        return false;
    }
    long ndim = (long)PyTuple_Size(shape), axis = along == Py_None ? ndim : PyLong_AsLong(along);
    if (axis == -1 && PyErr_Occurred()) return false;
    if (along != Py_None && (axis < -ndim || axis >= ndim)) {
        PyErr_Format(PyExc_IndexError, "axis %ld is out of range for %ld axes", axis, ndim);
        return false;
    }
    if (axis < 0) axis += ndim;
    a.outer = a.n = a.inner = 1;
    for (long i = 0; i < ndim; i++) {
        long size = PyLong_AsLong(PyTuple_GetItem(shape, i));
        if (size < 1) {
            if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "each axis must have an entry, not %R", shape);
            return false;
        }
        long& part = i == axis || along == Py_None ? a.n : i < axis ? a.outer : a.inner;
        part *= size;
    }
    return true;
}

static PyObject* call(int which, PyObject* const* given, Py_ssize_t count) {
    if (count != 8) {
        PyErr_Format(PyExc_TypeError, "8 arguments are needed, not %zd", count);
        return nullptr;
    }
    Arguments a{};
    if (!look_at_shape(given[5], given[6], a)) return nullptr;
    long itemsize = PyLong_AsLong(given[0]);
    a.threads = PyLong_AsLong(given[7]);
    if (PyErr_Occurred()) return nullptr;
    if (itemsize != 4 && itemsize != 8) {
        PyErr_Format(PyExc_ValueError, "floats are of 4 or 8 bytes, not %ld", itemsize);
        return nullptr;
    }
    if (a.threads < 1) {
        PyErr_Format(PyExc_ValueError, "threads must be at least 1, not %ld", a.threads);
        return nullptr;
    }
    if (a.threads > MOST_THREADS) a.threads = MOST_THREADS;
    void** addresses[4] = {&a.x, &a.g, &a.out, &a.rows};
    Py_buffer views[4];
    int held = 0;
    while (held < 4 && address_of(given[1 + held], addresses[held], &views[held])) held++;
    bool good = held == 4;
    if (good) {
        Run run = runs[itemsize == 8][which];
        if (a.outer * a.n * a.inner <= FEW) {
            run(a);
        } else {
            PyThreadState* state = PyEval_SaveThread();
            run(a);
            PyEval_RestoreThread(state);
        }
    }
    for (int i = 0; i < held; i++)
        if (views[i].obj) PyBuffer_Release(&views[i]);
    if (!good) return nullptr;
    Py_RETURN_NONE;
}

static PyObject* use(PyObject*, PyObject* const* given, Py_ssize_t count) {
    const char* name = count == 1 && PyUnicode_Check(given[0]) ? PyUnicode_AsUTF8AndSize(given[0], nullptr) : nullptr;
    for (int i = 0; name && i < count_of_sets; i++) {
        const char *a = sets[i].name, *b = name;
        while (*a && *a == *b) a++, b++;
        if (*a == *b) {
            runs = sets[i].runs;
            Py_RETURN_NONE;
        }
    }
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "an instruction set of this processor is needed, not %R",
                     count ? given[0] : Py_None);
    return nullptr;
}

#define METHOD(name, which) \
    static PyObject* name(PyObject*, PyObject* const* given, Py_ssize_t count) { return call(which, given, count); }
METHOD(logsumexp, 0)
METHOD(softmax, 1)
METHOD(log_softmax, 2)
METHOD(logsumexp_derivative, 3)
METHOD(softmax_derivative, 4)
METHOD(log_softmax_derivative, 5)

#define ROW(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, nullptr}
static PyMethodDef methods[] = {ROW(logsumexp),
                                ROW(softmax),
                                ROW(log_softmax),
                                ROW(logsumexp_derivative),
                                ROW(softmax_derivative),
                                ROW(log_softmax_derivative),
                                ROW(use),
                                {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_kernels", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__kernels() {
    look_at_processor();
    PyObject *module = PyModule_Create(&definition), *names = PyTuple_New(count_of_sets);
    for (int i = 0; names && i < count_of_sets; i++) PyTuple_SetItem(names, i, PyUnicode_FromString(sets[i].name));
    if (!module || !names || PyModule_AddObjectRef(module, "INSTRUCTION_SETS", names) < 0) Py_CLEAR(module);
    Py_XDECREF(names);
    return module;
}
