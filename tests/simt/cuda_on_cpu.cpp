// The scheduler of cuda_on_cpu.h: fibers, barriers and memory checks. Must not be compiled with
// -fsanitize=thread, whose calls it implements.
#include "cuda_on_cpu.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "launches.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves the callee-saved registers and the stack pointer, and resumes at `load`.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
    .text
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, . - simt_switch
)");
#endif

namespace simt {

Coordinates coordinates;

namespace {

constexpr size_t kStackBytes = size_t{1} << 17;
constexpr int kMaxThreads = 1024;
constexpr int64_t kMaxSharedBytes = 227 << 10;  // on sm_90

// A stack to switch to. swapcontext makes a system call per switch, half a microsecond and most of
// the run time, so x86-64 has its own few instructions.
#if defined(__x86_64__)
struct Context {
  void* stack_pointer;
};

void switch_context(Context& from, const Context& to) {
  simt_switch(&from.stack_pointer, to.stack_pointer);
}

void make_context(Context& context, char* stack, void (*entry)()) {
  // What simt_switch pops: six registers and the return address. `entry` expects the stack as after
  // a call, 8 bytes off its alignment.
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  std::fill(top - 8, top, nullptr);
  top[-2] = reinterpret_cast<void*>(entry);
  context.stack_pointer = top - 8;
}
#else
using Context = ucontext_t;

void switch_context(Context& from, const Context& to) { swapcontext(&from, &to); }

void make_context(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

// xorshift64*; any generator would do.
class Shuffler {
 public:
  explicit Shuffler(uint64_t seed) : state_((seed + 1) * 0x9E3779B97F4A7C15ull | 1) {}
  uint64_t below(uint64_t n) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545F4914F6CDD1Dull >> 33) % n;
  }

 private:
  uint64_t state_;
};

enum class State { kReady, kAtBlockBarrier, kAtWarpOp, kDone };

struct Thread {
  Context context;
  char* stack;
  void* fake_stack;  // of ASan
  uint3 index;
  int rank;
  State state;
  Site site;  // where the thread waits
  bool predicate;
  Votes votes;
  WarpOp op;
  uint32_t mask;
  uint64_t value, result;
  int source;
};

struct Machine {
  Context main;
  void* main_fake_stack = nullptr;
  const void* main_stack = nullptr;
  size_t main_stack_size = 0;

  char* stacks = nullptr;
  std::array<Thread, kMaxThreads> threads;
  int count = 0, live = 0, at_barrier = 0;
  std::vector<int> ready;
  Thread* self = nullptr;  // the fiber running kernel code; null while the scheduler runs
  const std::function<void()>* body = nullptr;
  Shuffler shuffler{0};
  uint64_t seed = 0;
  std::string error;
  std::unique_ptr<char[]> dynamic_shared;  // of the exact size, so that ASan detects overruns
  int64_t dynamic_shared_bytes = 0;

  // For the memory checks: the number of this block since the program started, that of the launch's
  // first block, and the barriers that the block and each warp have passed.
  uint32_t block = 0, first_block = 1, block_epoch = 0;
  std::array<uint32_t, kMaxThreads / 32> warp_epoch;
};
Machine machine;

std::string describe(const Thread& t) {
  std::ostringstream text;
  text << "thread (" << t.index.x << ", " << t.index.y << ", " << t.index.z << "), lane "
       << t.rank % 32 << " of warp " << t.rank / 32;
  return text.str();
}

std::string describe(const Site& site) {
  std::ostringstream text;
  text << site.what << " (" << site.file << ":" << site.line << ")";
  return text.str();
}

std::string status(const Thread& t) {
  if (t.state == State::kDone) return "has ended";
  if (t.state == State::kReady) return "is running";
  return "waits at " + describe(t.site);
}

void to_thread(Thread& t) {
  machine.self = &t;
  coordinates.thread = t.index;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&machine.main_fake_stack, t.stack, kStackBytes);
#endif
  switch_context(machine.main, t.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(machine.main_fake_stack, nullptr, nullptr);
#endif
  machine.self = nullptr;
}

// Switches to the scheduler; returns when `t` is chosen again (never if it is done or has failed).
void to_scheduler(Thread& t, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &t.fake_stack, machine.main_stack,
                                 machine.main_stack_size);
#else
  (void)for_good;
#endif
  switch_context(t.context, machine.main);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(t.fake_stack, nullptr, nullptr);
#endif
}

// Ends the launch. Its fibers are abandoned, since kernels own nothing that needs a destructor.
[[noreturn]] void fail(Thread& t, const std::string& message) {
  machine.error = describe(t) + ": " + message;
  to_scheduler(t, true);
  __builtin_unreachable();
}

void make_ready(Thread& t) {
  t.state = State::kReady;
  machine.ready.push_back(t.rank);
}

// Opens the block's barrier once all threads that have not returned wait at it.
void try_block_barrier(Thread& last) {
  if (machine.live == 0 || machine.at_barrier < machine.live) return;
  const Thread* first = nullptr;
  Votes votes{0, 1, 0};
  for (int i = 0; i < machine.count; ++i) {
    const Thread& t = machine.threads[i];
    if (t.state == State::kDone) continue;
    if (first == nullptr) first = &t;
    if (t.site.line != first->site.line || strcmp(t.site.what, first->site.what) != 0 ||
        strcmp(t.site.file, first->site.file) != 0) {
      fail(last, "threads are at different barriers: " + describe(*first) + " " + status(*first) +
                     ", " + describe(t) + " " + status(t));
    }
    votes.any |= t.predicate;
    votes.all &= t.predicate;
    votes.count += t.predicate;
  }
  machine.at_barrier = 0;
  ++machine.block_epoch;
  for (int i = 0; i < machine.count; ++i) {
    Thread& t = machine.threads[i];
    if (t.state == State::kDone) continue;
    t.votes = votes;
    make_ready(t);
  }
}

// Completes a warp operation once all lanes of its mask wait at it.
void try_warp_op(Thread& last) {
  const int warp = last.rank / 32 * 32;
  uint64_t ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((last.mask >> lane & 1) == 0) continue;
    if (warp + lane >= machine.count) {
      fail(last, describe(last.site) + " names lane " + std::to_string(lane) +
                     ", which the block does not have");
    }
    const Thread& t = machine.threads[warp + lane];
    if (t.state == State::kDone) {
      fail(last, describe(last.site) + " names lane " + std::to_string(lane) + ", which has ended");
    }
    if (t.state != State::kAtWarpOp || t.mask != last.mask) return;
    ballot |= t.value << lane;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if ((last.mask >> lane & 1) == 0) continue;
    Thread& t = machine.threads[warp + lane];
    if (t.site.line != last.site.line || strcmp(t.site.what, last.site.what) != 0 ||
        strcmp(t.site.file, last.site.file) != 0) {
      fail(last, "lanes are at different warp operations: this one at " + describe(last.site) +
                     ", lane " + std::to_string(lane) + " at " + describe(t.site));
    }
    if (t.op == WarpOp::kShuffle && (t.mask >> t.source & 1) == 0) {
      fail(t, describe(t.site) + " reads lane " + std::to_string(t.source) +
                  ", which its mask does not name");
    }
    t.result = t.op == WarpOp::kBallot ? ballot : machine.threads[warp + t.source].value;
  }
  // Shuffles and votes do not order memory accesses.
  if (last.op == WarpOp::kSync) ++machine.warp_epoch[warp / 32];
  for (int lane = 0; lane < 32; ++lane) {
    if ((last.mask >> lane & 1) != 0) make_ready(machine.threads[warp + lane]);
  }
}

void thread_entry() {
  Thread& t = *machine.self;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.main_stack, &machine.main_stack_size);
#endif
  (*machine.body)();
  machine.self = nullptr;
  t.state = State::kDone;
  --machine.live;
  const int warp = t.rank / 32 * 32;
  for (int i = warp; i < std::min(warp + 32, machine.count); ++i) {
    Thread& waiting = machine.threads[i];
    if (waiting.state == State::kAtWarpOp && (waiting.mask >> t.rank % 32 & 1) != 0) {
      fail(waiting, describe(waiting.site) + " names lane " + std::to_string(t.rank % 32) +
                        ", which has ended");
    }
  }
  try_block_barrier(t);
  to_scheduler(t, true);
}

// Threads are waiting and none can run.
std::string deadlock() {
  for (int i = 0; i < machine.count; ++i) {
    const Thread& t = machine.threads[i];
    if (t.state != State::kAtWarpOp) continue;
    for (int lane = 0; lane < 32; ++lane) {
      if ((t.mask >> lane & 1) == 0) continue;
      const Thread& other = machine.threads[i / 32 * 32 + lane];
      if (other.state == State::kAtWarpOp && other.mask == t.mask) continue;
      return describe(t) + ": deadlock: " + describe(t.site) + " names lane " +
             std::to_string(lane) + ", which " + status(other);
    }
  }
  return "deadlock";  // unreachable: without a warp operation the barrier would have opened
}

void run_block() {
  std::fill_n(machine.dynamic_shared.get(), machine.dynamic_shared_bytes, '\xff');  // NaN
  machine.live = machine.count;
  machine.at_barrier = 0;
  ++machine.block;
  machine.block_epoch = 0;
  machine.warp_epoch.fill(0);
  machine.ready.clear();
  for (int i = 0; i < machine.count; ++i) {
    Thread& t = machine.threads[i];
    t.stack = machine.stacks + i * kStackBytes;
    t.fake_stack = nullptr;
    t.rank = i;
    const unsigned x = coordinates.block_dim.x, y = coordinates.block_dim.y, rank = i;
    t.index = uint3{rank % x, rank / x % y, rank / (x * y)};
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(t.stack, kStackBytes);  // a failed launch leaves frames behind
#endif
    make_context(t.context, t.stack, thread_entry);
    make_ready(t);
  }
  while (!machine.ready.empty() && machine.error.empty()) {
    std::swap(machine.ready[machine.shuffler.below(machine.ready.size())], machine.ready.back());
    Thread& t = machine.threads[machine.ready.back()];
    machine.ready.pop_back();
    to_thread(t);
  }
  if (machine.error.empty() && machine.live > 0) machine.error = deadlock();
}

}  // namespace

unsigned long long add(unsigned long long* p, unsigned long long value) {
  const unsigned long long before = *p;
  *p += value;
  return before;
}

int lane() { return machine.self->rank % 32; }

uint4* dynamic_shared() { return reinterpret_cast<uint4*>(machine.dynamic_shared.get()); }

std::set<std::string>& launched() {
  static std::set<std::string> names;
  return names;
}

Votes block_barrier(const Site& site, bool predicate) {
  Thread& t = *machine.self;
  machine.self = nullptr;
  t.site = site;
  t.predicate = predicate;
  t.state = State::kAtBlockBarrier;
  ++machine.at_barrier;
  try_block_barrier(t);
  to_scheduler(t, false);
  return t.votes;
}

uint64_t warp_exchange(const Site& site, WarpOp op, uint32_t mask, uint64_t value, int source) {
  Thread& t = *machine.self;
  machine.self = nullptr;
  t.site = site;
  t.op = op;
  t.mask = mask;
  t.value = value;
  t.source = source;
  t.state = State::kAtWarpOp;
  if ((mask >> t.rank % 32 & 1) == 0) fail(t, describe(site) + " has a mask without the caller");
  try_warp_op(t);
  to_scheduler(t, false);
  return t.result;
}

void run(const Config& config, uint64_t seed, const std::function<void()>& thread_body) {
  const dim3 grid = config.grid, block = config.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (threads == 0 || threads > kMaxThreads || blocks == 0 || grid.y > 65535 || grid.z > 65535 ||
      config.shared_bytes < 0 || config.shared_bytes > kMaxSharedBytes) {
    throw std::runtime_error("simt: CUDA takes no such grid or block");
  }
  if (machine.stacks == nullptr) {
    void* memory = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("simt: no memory for stacks");
    machine.stacks = static_cast<char*>(memory);
  }
  machine.dynamic_shared_bytes = config.shared_bytes;
  machine.dynamic_shared = std::make_unique<char[]>(static_cast<size_t>(config.shared_bytes));
  machine.shuffler = Shuffler(seed);
  machine.body = &thread_body;
  machine.count = static_cast<int>(threads);
  machine.error.clear();
  machine.first_block = machine.block + 1;
  coordinates.block_dim = block;
  coordinates.grid_dim = grid;

  std::vector<uint32_t> order(blocks);
  for (uint64_t i = 0; i < blocks; ++i) order[i] = static_cast<uint32_t>(i);
  for (uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[machine.shuffler.below(i)]);
  for (const uint32_t b : order) {
    coordinates.block = uint3{b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
    run_block();
    if (machine.error.empty()) continue;
    std::ostringstream text;
    text << "simt: block (" << coordinates.block.x << ", " << coordinates.block.y << ", "
         << coordinates.block.z << "), seed " << seed << ": " << machine.error;
    throw std::runtime_error(text.str());
  }
}

#if defined(SIMT_CHECK_MEMORY)
// Shared memory is the dynamic memory of the launch and the static storage of kernels, i.e. the
// .bss of this module, since kernels have no other writable statics. (The linker defines the two
// symbols; they are hidden, so that they are those of this module.)
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];

namespace {

struct Access {
  uint32_t block = 0, block_epoch = 0, warp_epoch = 0;
  int32_t rank = 0;
};

// A byte of memory: its last write, and two different threads that have read it since the block's
// last barrier (two suffice to conflict with any writer).
struct Byte {
  Access write, read[2];
};

constexpr uintptr_t kPageBytes = 256;
using Page = std::array<Byte, kPageBytes>;

Byte& byte_at(uintptr_t address) {
  static std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  static std::array<std::pair<uintptr_t, Page*>, 64> recent{};
  const uintptr_t number = address / kPageBytes;
  auto& [key, page] = recent[number % recent.size()];
  if (key != number) {
    std::unique_ptr<Page>& found = pages[number];
    if (!found) found = std::make_unique<Page>();
    key = number;
    page = found.get();
  }
  return (*page)[address % kPageBytes];
}

// Whether an earlier access belongs to this launch (for shared memory, to this block).
bool counts(const Access& earlier, bool shared) {
  return shared ? earlier.block == machine.block : earlier.block >= machine.first_block;
}

// Whether two accesses are unordered: from different blocks, or in the same barrier interval of the
// block and, for lanes of one warp, of the warp.
bool races(const Access& earlier, const Access& now, bool shared) {
  if (!counts(earlier, shared)) return false;
  if (earlier.block != now.block) return true;
  if (earlier.rank == now.rank || earlier.block_epoch != now.block_epoch) return false;
  return earlier.rank / 32 != now.rank / 32 || earlier.warp_epoch == now.warp_epoch;
}

std::string race(const char* what, const Access& earlier, const char* earlier_what, bool shared) {
  std::ostringstream text;
  text << "data race: " << what << " " << (shared ? "shared" : "global") << " memory that ";
  if (earlier.block == machine.block) {
    text << describe(machine.threads[earlier.rank]);
  } else {
    text << "another block";
  }
  text << " " << earlier_what << " with no barrier between";
  return text.str();
}

// Requests to global memory: what the threads of a warp access when they execute the same code
// equally often. The compiler cuts an access of 16 bytes into parts, which are put together again.
struct Request {
  bool is_write;
  std::set<uintptr_t> sectors, bytes;
};
std::map<std::array<uintptr_t, 4>, Request> requests;  // by block, warp, code, and how often
std::map<std::pair<int, const void*>, uintptr_t> executed;
struct Latest {
  Request* request = nullptr;
  uintptr_t end = 0;
};
std::array<Latest, kMaxThreads> latest;  // of each thread
uint32_t executed_block = 0;
bool counts_traffic = false;

void count_request(const Thread& thread, const void* code, uintptr_t address, size_t size,
                   bool is_write) {
  if (executed_block != machine.block) {
    executed.clear();
    latest.fill({});
  }
  executed_block = machine.block;
  Latest& last = latest[thread.rank];
  const bool continues = last.request != nullptr && last.request->is_write == is_write &&
                         last.end == address && address % 16 != 0;
  if (!continues) {
    const uintptr_t times = executed[{thread.rank, code}]++;
    last.request = &requests[{machine.block, static_cast<uintptr_t>(thread.rank / 32),
                              reinterpret_cast<uintptr_t>(code), times}];
    last.request->is_write = is_write;
  }
  last.end = address + size;
  for (size_t i = 0; i < size; ++i) {
    last.request->bytes.insert(address + i);
    last.request->sectors.insert((address + i) / 32);
  }
}

void access(const void* pointer, size_t size, bool is_write, const void* code) {
  Thread* self = machine.self;
  if (self == nullptr) return;  // accesses by the host
  const char* p = static_cast<const char*>(pointer);
  if (p >= self->stack && p < self->stack + kStackBytes) return;
  const char* coordinates_begin = reinterpret_cast<const char*>(&coordinates);
  if (p >= coordinates_begin && p < coordinates_begin + sizeof coordinates) return;
  machine.self = nullptr;
  if (p >= machine.stacks && p < machine.stacks + kMaxThreads * kStackBytes) {
    fail(*self, "local memory of another thread");
  }
  const char* dynamic = machine.dynamic_shared.get();
  const bool shared = (p >= __bss_start && p < _end) ||
                      (p >= dynamic && p < dynamic + machine.dynamic_shared_bytes);
  // Switch threads before a shared access, so that a race affects values too and is not only
  // reported.
  if (shared && machine.shuffler.below(4) == 0) {
    make_ready(*self);
    to_scheduler(*self, false);
    machine.self = nullptr;
  }
  if (counts_traffic && !shared) {
    count_request(*self, code, reinterpret_cast<uintptr_t>(p), size, is_write);
  }
  const Access now{machine.block, machine.block_epoch, machine.warp_epoch[self->rank / 32],
                   self->rank};
  for (size_t i = 0; i < size; ++i) {
    Byte& byte = byte_at(reinterpret_cast<uintptr_t>(p) + i);
    if (shared && !is_write && !counts(byte.write, true)) {
      fail(*self, "reads shared memory that no thread of this block has written");
    }
    if (races(byte.write, now, shared)) {
      fail(*self, race(is_write ? "writes" : "reads", byte.write, "writes", shared));
    }
    if (is_write) {
      for (const Access& read : byte.read) {
        if (races(read, now, shared)) fail(*self, race("writes", read, "reads", shared));
      }
      byte = Byte{now, {}};
    } else {
      const Access& first = byte.read[0];
      const bool mine = first.block == now.block && first.rank == now.rank;
      const bool over = first.block == now.block && first.block_epoch != now.block_epoch;
      if (mine || over || !counts(first, shared)) {
        byte.read[0] = now;
      } else {
        byte.read[1] = now;
      }
    }
  }
  machine.self = self;
}

}  // namespace

void start_traffic() { counts_traffic = true; }
Traffic take_traffic() {
  Traffic traffic;
  for (const auto& [key, request] : requests) {
    Sectors& sectors = request.is_write ? traffic.stores : traffic.loads;
    sectors.touched += request.sectors.size();
    sectors.needed += (request.bytes.size() + 31) / 32;
  }
  requests.clear();
  counts_traffic = false;
  return traffic;
}
#else
void start_traffic() {}
Traffic take_traffic() { return {}; }
#endif

}  // namespace simt

#if defined(SIMT_CHECK_MEMORY)
// Functions that `g++ -fsanitize=thread` calls before every memory access; libtsan is not linked.
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define SIMT_TSAN_OF(name, size, is_write) \
  void name(void* p) { simt::access(p, size, is_write, __builtin_return_address(0)); }
#define SIMT_TSAN(size)                                  \
  SIMT_TSAN_OF(__tsan_read##size, size, false)           \
  SIMT_TSAN_OF(__tsan_write##size, size, true)           \
  SIMT_TSAN_OF(__tsan_unaligned_read##size, size, false) \
  SIMT_TSAN_OF(__tsan_unaligned_write##size, size, true)
SIMT_TSAN(1)
SIMT_TSAN(2)
SIMT_TSAN(4)
SIMT_TSAN(8)
SIMT_TSAN(16)
void __tsan_read_range(void* p, size_t size) {
  simt::access(p, size, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t size) {
  simt::access(p, size, true, __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}
}
#endif
