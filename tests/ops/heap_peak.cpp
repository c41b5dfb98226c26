// Counts the bytes allocated by malloc and related functions, for the tensors of torch and the
// std::vectors of kernels. Must be preloaded; tests/ops/test_memory.py reads heap_peak().
#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstddef>

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);
}

namespace {

std::atomic<long> live{0}, peak{0};

void* counted(void* p) {
  if (p == nullptr) return p;
  const long now = live += static_cast<long>(malloc_usable_size(p));
  long seen = peak;
  while (now > seen && !peak.compare_exchange_weak(seen, now)) {
  }
  return p;
}

void discounted(void* p) {
  if (p != nullptr) live -= static_cast<long>(malloc_usable_size(p));
}

}  // namespace

extern "C" {

void* malloc(size_t size) { return counted(__libc_malloc(size)); }
void* calloc(size_t n, size_t size) { return counted(__libc_calloc(n, size)); }
void* memalign(size_t align, size_t size) { return counted(__libc_memalign(align, size)); }
void* aligned_alloc(size_t align, size_t size) { return memalign(align, size); }
int posix_memalign(void** out, size_t align, size_t size) {
  *out = memalign(align, size);
  return *out == nullptr ? ENOMEM : 0;
}
void* realloc(void* p, size_t size) {
  discounted(p);
  return counted(__libc_realloc(p, size));
}
void free(void* p) {
  discounted(p);
  __libc_free(p);
}

// The most bytes that were out at one time since the last call, above those at the last call.
long heap_peak() {
  static long start = 0;
  const long result = peak - start;
  peak = start = live;
  return result;
}

}  // extern "C"
