// The Python module sprout_fast._C: importing it loads the CPU library beside it, which registers
// the ops with torch, and it tells how the build was made. Limited API only, so one file serves
// every Python from 3.10 on.
#include <Python.h>

#include "ops/cpu/isa.h"

static PyObject* build_info_json(PyObject*, PyObject*) {
  return PyUnicode_FromString(SPROUT_BUILD_INFO_JSON);
}

// Calling into the library also keeps the linker from dropping it.
static PyObject* have_avx2(PyObject*, PyObject*) {
  return PyBool_FromLong(sprout_fast::have_avx2() ? 1 : 0);
}

static PyMethodDef methods[] = {
    {"build_info_json", build_info_json, METH_NOARGS, "How this build was made, as JSON."},
    {"have_avx2", have_avx2, METH_NOARGS, "Whether the AVX2 kernels are the ones in use."},
    {nullptr, nullptr, 0, nullptr}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_C", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
