// The Python module sprout_fast._C. Importing it loads the CPU library, which registers the ops,
// and it reports how the libraries were built. It uses the limited API only, so one file serves
// Python 3.10 and later.
#include <Python.h>

#include <stdexcept>

#include "ops/cpu/isa.h"
#include "ops/device_support.h"

static PyObject* build_info_json(PyObject*, PyObject*) {
  return PyUnicode_FromString(SPROUT_BUILD_INFO_JSON);
}

// The call into the library also keeps the linker from dropping it.
static PyObject* cpu_isa(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(sprout_fast::isa_name(sprout_fast::best_isa()));
  } catch (const std::runtime_error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

static PyObject* device_problem(PyObject*, PyObject* arguments) {
  const char *archs = nullptr, *device = nullptr;
  int capability = 0;
  if (!PyArg_ParseTuple(arguments, "sis", &archs, &capability, &device)) return nullptr;
  return PyUnicode_FromString(sprout_fast::device_problem(archs, capability, device).c_str());
}

static PyObject* driver_problem(PyObject*, PyObject* arguments) {
  int driver = 0, runtime = 0;
  if (!PyArg_ParseTuple(arguments, "ii", &driver, &runtime)) return nullptr;
  return PyUnicode_FromString(sprout_fast::driver_problem(driver, runtime).c_str());
}

static PyMethodDef methods[] = {
    {"build_info_json", build_info_json, METH_NOARGS, "How this build was made, as JSON."},
    {"cpu_isa", cpu_isa, METH_NOARGS, "The instruction set of the CPU kernels in use."},
    {"device_problem", device_problem, METH_VARARGS,
     "Why code built for these architectures does not run on a GPU, or an empty string."},
    {"driver_problem", driver_problem, METH_VARARGS,
     "Why a driver does not serve a CUDA runtime, or an empty string."},
    {nullptr, nullptr, 0, nullptr}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_C", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
