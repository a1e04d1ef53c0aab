// A GPU for tests, on one thread of a CPU. Blocks run one after another; the threads of a block are fibers, which
// run until they meet a barrier. Kernels are compiled with -fsanitize=thread, so that every access of theirs to
// memory calls a function of ours first, and this file in the place of that sanitizer's library looks at it:
//
// - it lies within one buffer, or in the block's shared memory;
// - what it reads was written: buffers that the host did not fill, and shared memory, begin undefined;
// - no other thread reads or writes the same bytes unless a barrier lies between (within a block: barriers of the
//   block, or of the warp for threads of one warp; between blocks: nothing, but for atomics).
//
// A barrier that some threads cannot come to is an error. What is to be done comes in over stdin as src/protocol.rs
// writes it; what buffers hold goes out over stdout where it is asked for, and so does the first error, as one line.
#include "cuda_on_cpu.h"

#include <algorithm>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

namespace {

using cuda_on_cpu::Element;

constexpr unsigned WARP = 32;
constexpr unsigned long STACK_BYTES = 128 << 10;
constexpr unsigned THREADS_MAX = 1024;
// What a block of today's GPUs may have without asking for more.
constexpr unsigned long SHARED_BYTES_MAX = 48 << 10;

[[noreturn]] void fail(const char *format, ...);

// ---- accesses

// Who touched a byte, and when: a launch, a block, a thread, and how many barriers it had passed.
struct Stamp {
    uint64_t launch : 10, block : 18, thread : 10, block_epoch : 10, warp_epoch : 15, atomic : 1;
};
constexpr Stamp NEVER{};
bool is_never(Stamp stamp) { return stamp.launch == 0; }

// Of one byte. Two readers are known: enough for the threads that conflict in practice, and runs in other orders
// find the others.
struct Cell {
    Stamp written, read[2];
};

// What the host did, not a kernel.
constexpr Stamp host() { return {1, 0, 0, 0, 0, 0}; }

struct Memory {
    std::string name;
    unsigned char *begin;
    unsigned long bytes;
    // None until a kernel looks: most memory of a model is never looked at one by one.
    std::vector<Cell> cells;
    bool is_constant;
    // As long as there are no cells: so many bytes, from the first, were written by the host, and no others.
    unsigned long filled = 0;

    bool holds(const void *address) const {
        const auto *at = static_cast<const unsigned char *>(address);
        return at >= begin && at < begin + bytes;
    }

    void watch() {
        if (!cells.empty())
            return;
        cells.resize(bytes);
        std::fill_n(cells.begin(), filled, Cell{host(), {NEVER, NEVER}});
    }
};

enum class State { Ready, AtBlockBarrier, AtWarpBarrier, Ended };

struct Copy {
    unsigned char *to;
    const unsigned char *from;
};

struct Thread {
    // Where it begins; and where it goes on, once it has.
    ucontext_t begin;
    jmp_buf at;
    bool has_begun;
    unsigned char *stack;
    State state;
    const char *file;
    int line;
    unsigned warp_epoch;
    std::vector<std::vector<Copy>> copies;
};

// What the lanes of a warp bring to where they meet. A lane may come to the next meeting before others have read what
// was brought to this one, so there are two places.
struct Meeting {
    unsigned char brought[2][WARP][64];
};

struct Machine {
    // By where they begin.
    std::map<uint64_t, Memory> buffers;
    Memory shared{"shared memory", nullptr, 0, {}, false};
    Memory parameters{"the parameters", nullptr, 0, {}, true};
    jmp_buf scheduler;
    // As many as any block had; those of this one come first. They stay where they are: contexts point into themselves.
    std::deque<Thread> threads;
    unsigned count = 0;
    std::vector<Meeting> meetings;
    unsigned thread = 0, block = 0, launch = 0, block_epoch = 0;
    uint3 grid{}, size{}, block_at{};
    unsigned long accesses = 0;
    std::string kernel;
    void (*run)(const void *) = nullptr;
} machine;

constexpr unsigned long ACCESSES_MAX = 4'000'000'000;

std::string place() {
    char text[160];
    snprintf(text, sizeof text, "%s: block (%u, %u, %u), thread %u", machine.kernel.c_str(), machine.block_at.x,
             machine.block_at.y, machine.block_at.z, machine.thread);
    return text;
}

void put(const void *bytes, unsigned long count) {
    if (fwrite(bytes, 1, count, stdout) != count)
        _exit(3);
}

void fail(const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put("error\n", 6);
    put(text, strlen(text));
    fflush(stdout);
    _exit(0);
}

Stamp now(bool atomic) {
    const Thread &thread = machine.threads[machine.thread];
    if (thread.warp_epoch >= 1 << 15 || machine.block_epoch >= 1 << 10)
        fail("%s passes too many barriers to be watched", place().c_str());
    return {machine.launch, machine.block, machine.thread, machine.block_epoch, thread.warp_epoch, atomic};
}

// Whether what happened at `before` is done, and seen, for the thread that runs.
bool is_ordered(Stamp before, Stamp now) {
    if (is_never(before) || before.launch != now.launch)
        return true;
    if (before.block != now.block)
        return false;
    if (before.thread == now.thread || before.block_epoch < now.block_epoch)
        return true;
    return before.thread / WARP == now.thread / WARP && before.warp_epoch < now.warp_epoch;
}

enum class Kind { Read, Write, Atomic };

[[noreturn]] void race(const Memory &memory, unsigned long at, Stamp other, const char *did, const char *does) {
    fail("%s %s byte %lu of %s, which thread %u of block %u %s with no barrier between", place().c_str(), does, at,
         memory.name.c_str(), static_cast<unsigned>(other.thread), static_cast<unsigned>(other.block), did);
}

void look(Memory &memory, unsigned long at, unsigned long bytes, Kind kind) {
    const Stamp stamp = now(kind == Kind::Atomic);
    memory.watch();
    for (unsigned long i = at; i < at + bytes; i++) {
        Cell &cell = memory.cells[i];
        const bool both_atomic = kind == Kind::Atomic && cell.written.atomic;
        if (kind != Kind::Write && is_never(cell.written))
            fail("%s reads byte %lu of %s, which was never written", place().c_str(), i, memory.name.c_str());
        if (!both_atomic && !is_ordered(cell.written, stamp))
            race(memory, i, cell.written, "wrote", kind == Kind::Read ? "reads" : "writes");
        if (kind == Kind::Read) {
            Stamp *mine = &cell.read[0];
            if (mine->thread != stamp.thread || mine->block != stamp.block || mine->launch != stamp.launch) {
                cell.read[1] = cell.read[0];
            }
            *mine = stamp;
        } else {
            for (Stamp read : cell.read)
                if (!is_ordered(read, stamp))
                    race(memory, i, read, "read", "writes");
            cell = {stamp, {NEVER, NEVER}};
        }
    }
}

bool on_stack(const void *address) {
    const auto *at = static_cast<const unsigned char *>(address);
    const unsigned char *stack = machine.threads[machine.thread].stack;
    return at >= stack && at < stack + STACK_BYTES;
}

extern "C" const unsigned char __executable_start, edata, __data_start;

// Constants of the source lie before the data of the program.
bool is_program_constant(const void *address) {
    const auto *at = static_cast<const unsigned char *>(address);
    return at >= &__executable_start && at < &__data_start;
}

Memory *memory_of(const void *address) {
    if (machine.shared.holds(address))
        return &machine.shared;
    if (machine.parameters.holds(address))
        return &machine.parameters;
    auto after = machine.buffers.upper_bound(reinterpret_cast<uint64_t>(address));
    if (after == machine.buffers.begin())
        return nullptr;
    Memory &memory = std::prev(after)->second;
    return memory.holds(address) ? &memory : nullptr;
}

void access(const void *address, unsigned long bytes, Kind kind) {
    if (on_stack(address))
        return;
    if (++machine.accesses > ACCESSES_MAX)
        fail("%s does not end", place().c_str());
    Memory *memory = memory_of(address);
    const char *does = kind == Kind::Read ? "reads" : "writes";
    if (!memory) {
        if (kind == Kind::Read && is_program_constant(address))
            return;
        // The buffer that it just missed says most.
        const auto *at = static_cast<const unsigned char *>(address);
        for (const auto &[address, near] : machine.buffers)
            if (at >= near.begin - (1 << 16) && at < near.begin + near.bytes + (1 << 16))
                fail("%s %s %lu bytes at %ld of %s, which has %lu", place().c_str(), does, bytes,
                     static_cast<long>(at - near.begin), near.name.c_str(), near.bytes);
        fail("%s %s %lu bytes at %p, where nothing is", place().c_str(), does, bytes, address);
    }
    const unsigned long at = static_cast<const unsigned char *>(address) - memory->begin;
    if (at + bytes > memory->bytes)
        fail("%s %s %lu bytes at %lu of %s, which has %lu", place().c_str(), does, bytes, at,
             memory->name.c_str(), memory->bytes);
    if (bytes > 1 && (bytes & (bytes - 1)) == 0 && reinterpret_cast<uintptr_t>(address) % bytes != 0)
        fail("%s %s %lu bytes at %lu of %s, which is not aligned to them", place().c_str(), does, bytes, at,
             memory->name.c_str());
    if (memory->is_constant) {
        if (kind != Kind::Read)
            fail("%s writes to %s", place().c_str(), memory->name.c_str());
        return;
    }
    look(*memory, at, bytes, kind);
}

// ---- barriers

// Threads are entered by setcontext and left and resumed by jumps, which, unlike swapcontext, ask nothing of the
// system.
void resume(Thread &thread) {
    if (_setjmp(machine.scheduler) != 0)
        return;
    if (thread.has_begun)
        _longjmp(thread.at, 1);
    thread.has_begun = true;
    setcontext(&thread.begin);
}

void leave(Thread &thread) {
    if (_setjmp(thread.at) == 0)
        _longjmp(machine.scheduler, 1);
}

void pause_at(State state, const char *file, int line) {
    Thread &thread = machine.threads[machine.thread];
    thread.state = state;
    thread.file = file;
    thread.line = line;
    leave(thread);
}

// Brings `bytes` bytes to the other lanes of the warp and returns what all brought.
const unsigned char (*meet(const void *bytes, unsigned long count, const char *file, int line))[64] {
    Meeting &meeting = machine.meetings[machine.thread / WARP];
    auto &brought = meeting.brought[machine.threads[machine.thread].warp_epoch % 2];
    if (count > 0)
        memcpy(brought[machine.thread % WARP], bytes, count);
    pause_at(State::AtWarpBarrier, file, line);
    return brought;
}

void check_full(unsigned mask) {
    if (mask != ~0u)
        fail("%s: lanes meet under the mask %08x; ours always are all of a warp", place().c_str(), mask);
}

std::string where(const Thread &thread) {
    const char *slash = thread.file ? strrchr(thread.file, '/') : nullptr;
    const std::string site = std::string(slash ? slash + 1 : thread.file ? thread.file : "") + ":" +
                             std::to_string(thread.line);
    switch (thread.state) {
    case State::AtBlockBarrier: return "waits for its block at " + site;
    case State::AtWarpBarrier: return "waits for its warp at " + site;
    case State::Ended: return "has ended";
    case State::Ready: break;
    }
    return "can run";
}

bool are_together(unsigned begin, unsigned end, State state) {
    const Thread &first = machine.threads[begin];
    for (unsigned i = begin; i < end; i++) {
        const Thread &thread = machine.threads[i];
        if (thread.state != state || thread.file != first.file || thread.line != first.line)
            return false;
    }
    return true;
}

// Lets those go on who have all come; false if nobody can.
bool release() {
    const unsigned count = machine.count;
    if (are_together(0, count, State::AtBlockBarrier)) {
        machine.block_epoch++;
        for (unsigned i = 0; i < count; i++)
            machine.threads[i].state = State::Ready;
        return true;
    }
    bool any = false;
    for (unsigned warp = 0; warp < count; warp += WARP) {
        if (!are_together(warp, warp + WARP, State::AtWarpBarrier))
            continue;
        for (unsigned i = warp; i < warp + WARP; i++) {
            machine.threads[i].warp_epoch++;
            machine.threads[i].state = State::Ready;
        }
        any = true;
    }
    return any;
}

[[noreturn]] void stuck() {
    // Two threads that will never meet.
    for (unsigned i = 1; i < machine.count; i++) {
        const Thread &one = machine.threads[i - 1], &other = machine.threads[i];
        if (one.state != other.state || one.line != other.line)
            fail("%s, block (%u, %u, %u): a barrier that not all come to: thread %u %s, thread %u %s",
                 machine.kernel.c_str(), machine.block_at.x, machine.block_at.y, machine.block_at.z, i - 1,
                 where(one).c_str(), i, where(other).c_str());
    }
    fail("%s: threads wait for each other", machine.kernel.c_str());
}

// ---- running

// One block's thread after another's, on the same stack.
void thread_main() {
    for (;;) {
        machine.run(machine.parameters.begin);
        Thread &thread = machine.threads[machine.thread];
        for (const auto &group : thread.copies)
            if (!group.empty())
                fail("%s ends before its copies to shared memory", place().c_str());
        thread.state = State::Ended;
        leave(thread);
    }
}

// Threads of a block, as many as were never needed before.
void make_threads(unsigned count) {
    while (machine.threads.size() < count) {
        Thread &thread = machine.threads.emplace_back();
        void *stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED)
            fail("no memory for stacks");
        thread.stack = static_cast<unsigned char *>(stack);
        thread.has_begun = false;
        getcontext(&thread.begin);
        thread.begin.uc_stack.ss_sp = thread.stack;
        thread.begin.uc_stack.ss_size = STACK_BYTES;
        thread.begin.uc_link = nullptr;
        makecontext(&thread.begin, thread_main, 0);
    }
    machine.count = count;
}

struct Random {
    uint64_t state;
    uint32_t next() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return state >> 33;
    }
};

// Orders in which the threads take turns: as they are numbered, from behind, or another one in each turn.
void order(std::vector<unsigned> &turns, uint32_t schedule, Random &random) {
    if (schedule == 1)
        std::reverse(turns.begin(), turns.end());
    if (schedule > 1)
        for (unsigned i = turns.size(); i > 1; i--)
            std::swap(turns[i - 1], turns[random.next() % i]);
}

void run_block(uint32_t schedule, Random &random) {
    const unsigned count = machine.count;
    machine.block_epoch = 0;
    machine.shared.bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        Thread &thread = machine.threads[i];
        thread.state = State::Ready;
        thread.file = nullptr;
        thread.line = 0;
        thread.warp_epoch = 0;
        thread.copies.assign(1, {});
    }
    std::vector<unsigned> turns(count);
    for (unsigned i = 0; i < count; i++)
        turns[i] = i;
    if (schedule == 1)
        order(turns, schedule, random);
    for (;;) {
        if (schedule > 1)
            order(turns, schedule, random);
        unsigned ended = 0;
        for (unsigned i : turns) {
            machine.thread = i;
            if (machine.threads[i].state == State::Ready)
                resume(machine.threads[i]);
            ended += machine.threads[i].state == State::Ended;
        }
        if (ended == count)
            return;
        if (!release())
            stuck();
    }
}

struct Registered {
    const char *name;
    unsigned threads;
    unsigned long parameter_bytes;
    void (*run)(const void *);
};

std::vector<Registered> &kernels() {
    static std::vector<Registered> all;
    return all;
}

void take(void *bytes, unsigned long count) {
    if (fread(bytes, 1, count, stdin) != count)
        _exit(2);
}

template <class T> T take() {
    T value;
    take(&value, sizeof value);
    return value;
}

std::string take_text() {
    std::string text(take<uint64_t>(), 0);
    take(text.data(), text.size());
    return text;
}

// Memory with nothing in it, which every read is told; whoever uses it all the same does not find zeros.
void make_buffer(std::string name, uint64_t address, uint64_t bytes) {
    void *at = mmap(reinterpret_cast<void *>(address), std::max<uint64_t>(bytes, 1), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at == MAP_FAILED)
        fail("no memory for %s", name.c_str());
    memset(at, 0xff, bytes);
    machine.buffers.emplace(address, Memory{std::move(name), static_cast<unsigned char *>(at), bytes, {}, false});
}

void take_buffer() {
    std::string name = take_text();
    const auto address = take<uint64_t>(), bytes = take<uint64_t>();
    make_buffer(std::move(name), address, bytes);
}

// Memory for which nobody has a name any more: whoever looks at it is told that nothing is there.
void free_buffer() {
    const auto found = machine.buffers.find(take<uint64_t>());
    if (found == machine.buffers.end())
        fail("what is freed is no buffer");
    munmap(found->second.begin, std::max<uint64_t>(found->second.bytes, 1));
    machine.buffers.erase(found);
}

// A part of a buffer that the host names.
struct Part {
    Memory *memory;
    unsigned long at, bytes;

    unsigned char *begin() const { return memory->begin + at; }

    // The host, which a kernel's threads do not run beside, has written it.
    void is_written() const {
        if (memory->cells.empty() && at <= memory->filled) {
            memory->filled = std::max(memory->filled, at + bytes);
            return;
        }
        memory->watch();
        std::fill_n(memory->cells.begin() + at, bytes, Cell{host(), {NEVER, NEVER}});
    }

    void check_written(const char *doing) const {
        if (memory->cells.empty() && at + bytes <= memory->filled)
            return;
        memory->watch();
        for (unsigned long i = at; i < at + bytes; i++)
            if (is_never(memory->cells[i].written))
                fail("%s: byte %lu of %s was never written", doing, i, memory->name.c_str());
    }
};

Part part(uint64_t address, uint64_t bytes, const char *doing) {
    Memory *memory = memory_of(reinterpret_cast<const void *>(address));
    if (!memory)
        fail("%s: nothing is at %#lx", doing, address);
    const unsigned long at = reinterpret_cast<unsigned char *>(address) - memory->begin;
    if (at + bytes > memory->bytes)
        fail("%s: %lu bytes at %lu of %s, which has %lu", doing, bytes, at, memory->name.c_str(), memory->bytes);
    return {memory, at, bytes};
}

Part take_part(const char *doing) {
    const auto address = take<uint64_t>(), bytes = take<uint64_t>();
    return part(address, bytes, doing);
}

void write_part() {
    const Part to = take_part("writing");
    take(to.begin(), to.bytes);
    to.is_written();
}

void read_part() {
    const Part from = take_part("reading");
    from.check_written("reading");
    put("r", 1);
    put(from.begin(), from.bytes);
    fflush(stdout);
}

void fill_part() {
    const Part at = take_part("filling");
    memset(at.begin(), take<uint8_t>(), at.bytes);
    at.is_written();
}

void copy_part() {
    const Part to = take_part("copying"), from = part(take<uint64_t>(), to.bytes, "copying");
    from.check_written("copying");
    memcpy(to.begin(), from.begin(), to.bytes);
    to.is_written();
}

constexpr unsigned LAUNCHES = 1 << 10;

// Stamps have no more numbers for launches: what was written stays written, and who did it is of no interest any more.
void forget_launches() {
    for (auto &[address, memory] : machine.buffers)
        for (Cell &cell : memory.cells)
            cell = {is_never(cell.written) ? NEVER : host(), {NEVER, NEVER}};
    machine.launch = 2;
}

void launch() {
    machine.kernel = take_text();
    machine.grid = take<uint3>();
    machine.size = take<uint3>();
    const auto schedule = take<uint32_t>();
    std::string parameters = take_text();
    machine.parameters.begin = reinterpret_cast<unsigned char *>(parameters.data());
    machine.parameters.bytes = parameters.size();
    const Registered *found = nullptr;
    for (const Registered &kernel : kernels())
        if (machine.kernel == kernel.name)
            found = &kernel;
    if (!found)
        fail("there is no kernel %s", machine.kernel.c_str());
    if (found->parameter_bytes != parameters.size())
        fail("%s takes %lu bytes of parameters, and %lu were given", machine.kernel.c_str(), found->parameter_bytes,
             parameters.size());
    const unsigned count = machine.size.x * machine.size.y * machine.size.z;
    if (count != found->threads || count % WARP != 0 || count > THREADS_MAX)
        fail("%s is written for blocks of %u threads, and %u were asked for", machine.kernel.c_str(), found->threads,
             count);
    machine.run = found->run;
    make_threads(count);
    machine.meetings.resize(count / WARP);
    if (++machine.launch == LAUNCHES)
        forget_launches();
    machine.accesses = 0;
    Random random{schedule};
    const unsigned blocks = machine.grid.x * machine.grid.y * machine.grid.z;
    if (blocks >= 1 << 18)
        fail("%s: %u blocks are too many to be watched", machine.kernel.c_str(), blocks);
    for (unsigned i = 0; i < blocks; i++) {
        // The order of blocks is nobody's promise either.
        const unsigned block = schedule == 0 ? i : blocks - 1 - i;
        machine.block = block;
        machine.block_at = {block % machine.grid.x, block / machine.grid.x % machine.grid.y,
                            block / machine.grid.x / machine.grid.y};
        run_block(schedule, random);
    }
}

} // namespace


// ---- what kernels call

namespace cuda_on_cpu {

Kernel::Kernel(const char *name, unsigned threads, unsigned long parameter_bytes, void (*run)(const void *)) {
    kernels().push_back({name, threads, parameter_bytes, run});
}

uint3 thread_index() {
    const unsigned i = machine.thread;
    return {i % machine.size.x, i / machine.size.x % machine.size.y, i / machine.size.x / machine.size.y};
}
uint3 block_index() { return machine.block_at; }
uint3 block_size() { return machine.size; }
uint3 grid_size() { return machine.grid; }

void *shared_memory(unsigned long bytes) {
    Memory &shared = machine.shared;
    if (shared.bytes == 0) {
        if (bytes > SHARED_BYTES_MAX)
            fail("%s: %lu bytes of shared memory, and %lu are there", place().c_str(), bytes, SHARED_BYTES_MAX);
        shared.bytes = bytes;
        shared.cells.assign(bytes, Cell{});
        memset(shared.begin, 0xff, bytes);
    }
    if (shared.bytes != bytes)
        fail("%s: a kernel has one shared memory", place().c_str());
    return shared.begin;
}

void block_barrier(const char *file, int line) { pause_at(State::AtBlockBarrier, file, line); }

void warp_barrier(const char *file, int line) { meet(nullptr, 0, file, line); }

uint64_t exchange(unsigned mask, uint64_t value, unsigned source_lane, const char *file, int line) {
    check_full(mask);
    const auto *brought = meet(&value, sizeof value, file, line);
    uint64_t found;
    memcpy(&found, brought[source_lane], sizeof found);
    return found;
}

unsigned ballot(unsigned mask, bool value, const char *file, int line) {
    check_full(mask);
    const auto *brought = meet(&value, sizeof value, file, line);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < WARP; lane++)
        bits |= static_cast<unsigned>(brought[lane][0]) << lane;
    return bits;
}

uint4 load_16(const void *from) {
    access(from, 16, Kind::Read);
    return *static_cast<const uint4 *>(from);
}

void store_16(void *to, uint4 value) {
    access(to, 16, Kind::Write);
    *static_cast<uint4 *>(to) = value;
}

uint32_t atomic_add(uint32_t *to, uint32_t value) {
    access(to, sizeof *to, Kind::Atomic);
    const uint32_t before = *to;
    *to += value;
    return before;
}

double atomic_add(double *to, double value) {
    access(to, sizeof *to, Kind::Atomic);
    const double before = *to;
    *to += value;
    return before;
}

uint32_t atomic_max(uint32_t *to, uint32_t value) {
    access(to, sizeof *to, Kind::Atomic);
    const uint32_t before = *to;
    *to = std::max(before, value);
    return before;
}

float half_to_float(uint16_t bits) {
    const unsigned sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00)
        return bits_of<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // Exponents differ by 112; subnormal halves are normal floats.
    const float value = bits_of<float>(magnitude << 13) * bits_of<float>((127u + 112u) << 23);
    return bits_of<float>(sign | bits_of<unsigned>(value));
}

// To the nearest, ties to even.
uint16_t float_to_half(float value) {
    const unsigned bits = bits_of<unsigned>(value), sign = bits >> 16 & 0x8000u;
    const float size = std::fabs(value);
    if (std::isnan(value))
        return sign | 0x7e00u;
    if (size >= 65520.0f)
        return sign | 0x7c00u;
    if (size < bits_of<float>((127u - 14u) << 23)) {
        // Multiples of 2^-24.
        return sign | static_cast<unsigned>(std::nearbyint(size * bits_of<float>((127u + 24u) << 23)));
    }
    const unsigned magnitude = bits & 0x7fffffffu, rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
    return sign | ((rounded >> 13) - (112u << 10));
}

static float widen(uint16_t bits, Element element) {
    return element == Element::F16 ? half_to_float(bits) : bits_of<float>(static_cast<unsigned>(bits) << 16);
}

// To the nearest, ties to even.
static uint16_t narrow(float value, Element element) {
    if (element == Element::F16)
        return float_to_half(value);
    const unsigned bits = bits_of<unsigned>(value);
    return std::isnan(value) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Element element, const char *file, int line) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const auto *brought = meet(mine, sizeof mine, file, line);
    const auto element_of = [&](unsigned lane, unsigned fragment, unsigned upper) {
        uint16_t bits;
        memcpy(&bits, brought[lane] + 4 * fragment + 2 * upper, sizeof bits);
        return widen(bits, element);
    };
    const unsigned lane = machine.thread % WARP;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            const unsigned a_fragment = row / 8 + 2 * (k / 8), a_lane = row % 8 * 4 + k % 8 / 2;
            const unsigned b_fragment = 4 + k / 8, b_lane = column * 4 + k % 8 / 2;
            d[i] += element_of(a_lane, a_fragment, k % 2) * element_of(b_lane, b_fragment, k % 2);
        }
    }
}

void load_tiles(uint32_t (&tiles)[4], const void *row, bool transposed, const char *file, int line) {
    if (!machine.shared.holds(row))
        fail("%s loads a tile that does not lie in shared memory", place().c_str());
    access(row, 16, Kind::Read);
    const auto *brought = meet(&row, sizeof row, file, line);
    const unsigned lane = machine.thread % WARP;
    for (unsigned tile = 0; tile < 4; tile++) {
        uint16_t pair[2];
        for (unsigned i = 0; i < 2; i++) {
            const unsigned r = transposed ? lane % 4 * 2 + i : lane / 4;
            const unsigned c = transposed ? lane / 4 : lane % 4 * 2 + i;
            const uint16_t *from;
            memcpy(&from, brought[tile * 8 + r], sizeof from);
            pair[i] = from[c];
        }
        memcpy(&tiles[tile], pair, sizeof pair);
    }
}

void copy_16(void *shared, const void *global) {
    if (!machine.shared.holds(shared))
        fail("%s copies to what is not shared memory", place().c_str());
    access(global, 16, Kind::Read);
    machine.threads[machine.thread].copies.back().push_back(
        {static_cast<unsigned char *>(shared), static_cast<const unsigned char *>(global)});
}

void end_copy_group() { machine.threads[machine.thread].copies.emplace_back(); }

void wait_for_copies(unsigned groups_left) {
    auto &groups = machine.threads[machine.thread].copies;
    // The last group is still open.
    while (groups.size() > groups_left + 1) {
        for (const Copy &copy : groups.front()) {
            access(copy.to, 16, Kind::Write);
            memcpy(copy.to, copy.from, 16);
        }
        groups.erase(groups.begin());
    }
}

} // namespace cuda_on_cpu

// ---- what -fsanitize=thread and -fsanitize=bounds call

extern "C" {
#define ACCESS(bytes)                                                                                                  \
    void __tsan_read##bytes(void *address) { access(address, bytes, Kind::Read); }                                     \
    void __tsan_write##bytes(void *address) { access(address, bytes, Kind::Write); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
#undef ACCESS
#define UNALIGNED(bytes)                                                                                               \
    void __tsan_unaligned_read##bytes(void *address) {                                                                 \
        for (int i = 0; i < bytes; i++)                                                                                \
            access(static_cast<char *>(address) + i, 1, Kind::Read);                                                   \
    }                                                                                                                  \
    void __tsan_unaligned_write##bytes(void *address) {                                                                \
        for (int i = 0; i < bytes; i++)                                                                                \
            access(static_cast<char *>(address) + i, 1, Kind::Write);                                                  \
    }
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)
#undef UNALIGNED
void __tsan_read_range(void *address, unsigned long bytes) {
    for (unsigned long i = 0; i < bytes; i++)
        access(static_cast<char *>(address) + i, 1, Kind::Read);
}
void __tsan_write_range(void *address, unsigned long bytes) {
    for (unsigned long i = 0; i < bytes; i++)
        access(static_cast<char *>(address) + i, 1, Kind::Write);
}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_init() {}

void __ubsan_handle_out_of_bounds(void *data, unsigned long index) {
    struct Source {
        const char *file;
        uint32_t line, column;
    };
    const auto *source = static_cast<const Source *>(data);
    const char *slash = strrchr(source->file, '/');
    fail("%s: index %ld is out of the bounds of its array at %s:%u", place().c_str(), static_cast<long>(index),
         slash ? slash + 1 : source->file, source->line);
}
}

// ---- the host

// In eight chains, which a CPU adds up at once.
static float dot(const float *a, const float *b, uint64_t count) {
    float sums[8] = {};
    uint64_t k = 0;
    for (; k + 8 <= count; k += 8)
        for (unsigned i = 0; i < 8; i++)
            sums[i] += a[k + i] * b[k + i];
    for (; k < count; k++)
        sums[0] += a[k] * b[k];
    float sum = 0;
    for (float chain : sums)
        sum += chain;
    return sum;
}

// out = x wᵀ of 16-bit numbers, added up in f32.
static void product() {
    const char *doing = "multiplying";
    const auto element = take<uint8_t>() == 0 ? Element::F16 : Element::BF16;
    const bool is_out_wide = take<uint8_t>() == 1;
    const auto rows = take<uint64_t>(), inputs = take<uint64_t>(), outputs = take<uint64_t>();
    const Part x = part(take<uint64_t>(), 2 * rows * inputs, doing);
    const Part weight = part(take<uint64_t>(), 2 * outputs * inputs, doing);
    const Part out = part(take<uint64_t>(), (is_out_wide ? 4 : 2) * rows * outputs, doing);
    x.check_written(doing);
    weight.check_written(doing);
    const auto widened = [&](const Part &part) {
        std::vector<float> numbers(part.bytes / 2);
        const auto *bits = reinterpret_cast<const uint16_t *>(part.begin());
        for (unsigned long i = 0; i < numbers.size(); i++)
            numbers[i] = cuda_on_cpu::widen(bits[i], element);
        return numbers;
    };
    const std::vector<float> xs = widened(x), ws = widened(weight);
    for (uint64_t row = 0; row < rows; row++)
        for (uint64_t column = 0; column < outputs; column++) {
            const float sum = dot(&xs[row * inputs], &ws[column * inputs], inputs);
            const uint64_t at = row * outputs + column;
            if (is_out_wide)
                reinterpret_cast<float *>(out.begin())[at] = sum;
            else
                reinterpret_cast<uint16_t *>(out.begin())[at] = cuda_on_cpu::narrow(sum, element);
        }
    out.is_written();
}

int main() {
    static unsigned char shared[SHARED_BYTES_MAX] __attribute__((aligned(128)));
    machine.shared.begin = shared;
    machine.launch = 1;
    for (;;) {
        const auto asked = take<uint8_t>();
        // For whatever it is; the host may take its time before.
        alarm(300);
        switch (asked) {
        case 'b': take_buffer(); break;
        case 'l': launch(); break;
        case 'f': free_buffer(); break;
        case 'w': write_part(); break;
        case 'r': read_part(); break;
        case 'z': fill_part(); break;
        case 'c': copy_part(); break;
        case 'p': product(); break;
        case 'e':
            put("done\n", 5);
            for (const auto &[address, memory] : machine.buffers)
                put(memory.begin, memory.bytes);
            fflush(stdout);
            return 0;
        default: return 2;
        }
        alarm(0);
    }
}
