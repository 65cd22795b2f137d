// A stand-in for NVIDIA's driver library: what a program that loads `libcuda.so.1` finds where there is no GPU. It runs the
// kernels of ../kernels on the host shim, so that everything up to the launch can be tried: names, arguments, grids, shared
// memory, copies, streams, graphs.
//
// It is stricter than a driver where that finds mistakes:
// - fresh memory is NaN (every bit set), and has a strip behind it that is looked at when it is freed;
// - a copy has to lie within one living allocation;
// - what goes to a stream is done when somebody waits for the stream, and not before: who does not wait reads old elements
//   (copies from and to memory of the host that is not pinned end with their calls, as a driver's do);
// - a kernel that the PTX does not name, or that the shim does not know, is refused, and so is a block that is not the
//   kernel's, a grid of more than one dimension, and dynamic shared memory past 48 KiB that was not asked for;
// - while a stream records a graph, its thread may neither allocate nor wait.
//
// It says nothing of speed, and nothing of a GPU.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../shim/shim.h"

namespace {

// CUresult, as far as this answers.
enum Result : int {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_PTX = 218,
    INVALID_HANDLE = 400, NOT_FOUND = 500, STREAM_CAPTURE_UNSUPPORTED = 900
};

// CUdevice_attribute.
enum Attribute : int {
    MAX_GRID_DIM_X = 5, MULTIPROCESSOR_COUNT = 16, COMPUTE_CAPABILITY_MAJOR = 75, COMPUTE_CAPABILITY_MINOR = 76, MAX_SHARED_OPTIN = 97, MEMORY_POOLS_SUPPORTED = 115
};
constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;  // CUfunction_attribute

// A small grid, so that it is clamped in tests: kernels are right for any.
constexpr int MOST_BLOCKS = 64, PROCESSORS = 4;
constexpr size_t MOST_MEMORY = size_t{1} << 31, MOST_SHARED = 163 * 1024, FREE_SHARED = 48 * 1024, STRIP = 64;
constexpr unsigned char FRESH = 0xff, GUARD = 0xa5;

using Work = std::function<void()>;

struct Function {
    std::string name;
    const shim::Entry* entry = nullptr;
    std::vector<size_t> sizes;  // bytes of each argument
    size_t shared = FREE_SHARED;
};
struct Module {
    std::map<std::string, std::unique_ptr<Function>> functions;
};
struct Graph {
    std::vector<Work> work;
};
struct Stream {
    std::vector<Work> work;
    std::unique_ptr<Graph> recording;
};
struct Allocation {
    size_t bytes;
    bool host;
};

struct State {
    std::recursive_mutex lock;
    std::map<uintptr_t, Allocation> allocations;
    std::map<void*, std::unique_ptr<Stream>> streams;
    std::map<void*, std::unique_ptr<Module>> modules;
    std::map<void*, std::unique_ptr<Graph>> graphs, executables;
    size_t taken = 0;
    uint64_t launches = 0;
    int retained = 0;
    Stream legacy;
    std::map<void*, void*> events;  // each with the stream that recorded it
};
State& state() {
    static State* const it = new State;  // threads may end after statics do
    return *it;
}
thread_local void* current = nullptr;
thread_local int recording = 0;
int context_of_device = 0;

[[noreturn]] void fault(const char* what) {
    std::fprintf(stderr, "stand-in driver: %s\n", what);
    std::abort();
}

// Why a call is refused, for whoever reads the test's output.
int refused(int result, const std::string& why) {
    std::fprintf(stderr, "stand-in driver: %s\n", why.c_str());
    return result;
}

// The allocation in which [at, at + bytes) lies, or none.
const Allocation* holding(uintptr_t at, size_t bytes) {
    State& s = state();
    auto next = s.allocations.upper_bound(at);
    if (next == s.allocations.begin()) return nullptr;
    const auto& [start, found] = *std::prev(next);
    return at - start <= found.bytes && bytes <= found.bytes - (at - start) ? &found : nullptr;
}

int allocate(uintptr_t* at, size_t bytes, bool host) {
    State& s = state();
    const std::lock_guard guard(s.lock);
    if (!current) return INVALID_CONTEXT;
    if (recording) return STREAM_CAPTURE_UNSUPPORTED;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > MOST_MEMORY - s.taken) return OUT_OF_MEMORY;
    auto* const memory = static_cast<unsigned char*>(std::aligned_alloc(256, (bytes + STRIP + 255) / 256 * 256));
    if (!memory) return OUT_OF_MEMORY;
    std::memset(memory, FRESH, bytes);
    std::memset(memory + bytes, GUARD, STRIP);
    *at = reinterpret_cast<uintptr_t>(memory);
    s.allocations[*at] = {bytes, host};
    s.taken += bytes;
    return SUCCESS;
}

// What CUDA calls the streams that nobody makes: the legacy one, and each thread's own.
void* const LEGACY = reinterpret_cast<void*>(1);
void* const PER_THREAD = reinterpret_cast<void*>(2);

// A thread's own stream, which goes when the thread does.
struct Own {
    Stream stream;
    ~Own() { if (!stream.work.empty()) fault("a thread ends before what it sent"); }
};
thread_local Own own;

void finish(Stream& stream) {
    while (!stream.work.empty()) {
        std::vector<Work> work;
        work.swap(stream.work);
        for (const Work& one : work) one();
    }
}
void finish_all() {
    finish(state().legacy);
    finish(own.stream);
    for (auto& [_, stream] : state().streams) finish(*stream);
}

int release(uintptr_t at, bool host) {
    State& s = state();
    const std::lock_guard guard(s.lock);
    if (recording) return STREAM_CAPTURE_UNSUPPORTED;
    const auto found = s.allocations.find(at);
    if (found == s.allocations.end() || found->second.host != host) return refused(INVALID_VALUE, "memory that is not allocated is freed");
    finish_all();
    const size_t bytes = found->second.bytes;
    auto* const memory = reinterpret_cast<unsigned char*>(at);
    for (size_t i = 0; i < STRIP; i++) {
        if (memory[bytes + i] != GUARD) fault("somebody wrote past the end of an allocation");
    }
    s.taken -= bytes;
    s.allocations.erase(found);
    std::free(memory);
    return SUCCESS;
}

Stream* stream_of(void* handle) {
    if (!handle || handle == LEGACY) return &state().legacy;
    if (handle == PER_THREAD) return &own.stream;
    const auto found = state().streams.find(handle);
    return found == state().streams.end() ? nullptr : found->second.get();
}

int send(void* handle, Work work) {
    Stream* const stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    (stream->recording ? stream->recording->work : stream->work).push_back(std::move(work));
    return SUCCESS;
}

// `device` says which ends have to be device memory.
int copy(void* handle, uintptr_t to, uintptr_t from, size_t bytes, bool to_device, bool from_device) {
    const std::lock_guard guard(state().lock);
    if (to_device && !holding(to, bytes)) return refused(INVALID_VALUE, "a copy that does not lie within memory of the device");
    if (from_device && !holding(from, bytes)) return refused(INVALID_VALUE, "a copy from beyond memory of the device");
    const int sent = send(handle, [=] {
        if ((to_device && !holding(to, bytes)) || (from_device && !holding(from, bytes))) fault("memory was freed before its copy was done");
        std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    });
    // Memory of the host that is not pinned is staged: the call returns when it has been read or written.
    const bool staged = (!to_device && !holding(to, bytes)) || (!from_device && !holding(from, bytes));
    if (sent == SUCCESS && staged && bytes > 0) {
        if (recording) return STREAM_CAPTURE_UNSUPPORTED;
        finish(*stream_of(handle));
    }
    return sent;
}

int at_once(int result) {
    const std::lock_guard guard(state().lock);
    if (recording) return STREAM_CAPTURE_UNSUPPORTED;
    if (result == SUCCESS) finish(state().legacy);
    return result;
}

// The bytes of each argument of an entry, out of its `.param` lines: `.param .u64 .ptr .align 1 name` or
// `.param .align 8 .b8 name[104]`.
std::vector<size_t> sizes_of(const std::string& head) {
    std::vector<size_t> sizes;
    for (size_t at = head.find(".param "); at != std::string::npos; at = head.find(".param ", at + 1)) {
        const std::string line = head.substr(at, head.find_first_of(",)", at) - at);
        const size_t bracket = line.find('[');
        if (bracket != std::string::npos) sizes.push_back(std::strtoul(line.c_str() + bracket + 1, nullptr, 10));
        else if (line.find("64 ") != std::string::npos) sizes.push_back(8);
        else if (line.find("32 ") != std::string::npos) sizes.push_back(4);
        else return {};
    }
    return sizes;
}

struct Launch {
    const shim::Entry* entry;
    unsigned grid, block;
    size_t shared;
    std::vector<std::vector<uint64_t>> arguments;  // aligned copies
    void run() {
        std::vector<void*> pointers;
        for (auto& argument : arguments) pointers.push_back(argument.data());
        shim::launch(*entry, grid, block, shared, pointers.data());
    }
};

}  // namespace

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
int cuGetErrorName(int result, const char** name) {
    *name = result == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : result == NOT_FOUND ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int, const char** text) { return *text = "refused by the stand-in driver", SUCCESS; }

// ---- Devices and contexts ----

int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { return ordinal == 0 ? (*device = 0, SUCCESS) : INVALID_DEVICE; }
int cuDeviceGetName(char* name, int length, int) { return std::snprintf(name, static_cast<size_t>(length), "stand-in (no GPU: kernels on a CPU shim)"), SUCCESS; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = MOST_MEMORY, SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case MAX_GRID_DIM_X: *value = MOST_BLOCKS; break;
        case MULTIPROCESSOR_COUNT: *value = PROCESSORS; break;
        case COMPUTE_CAPABILITY_MAJOR: *value = 8; break;
        case COMPUTE_CAPABILITY_MINOR: *value = 0; break;
        case MAX_SHARED_OPTIN: *value = MOST_SHARED; break;
        case MEMORY_POOLS_SUPPORTED: *value = 0; break;
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
    const std::lock_guard guard(state().lock);
    state().retained++;
    return *context = &context_of_device, SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int) {
    const std::lock_guard guard(state().lock);
    State& s = state();
    // A driver would free what is left; here it is somebody's mistake.
    if (--s.retained == 0 && !(s.allocations.empty() && s.streams.empty() && s.modules.empty() && s.executables.empty())) fault("a context ends before what belongs to it");
    return SUCCESS;
}
int cuCtxSetCurrent(void* context) { return current = context, SUCCESS; }
int cuCtxGetCurrent(void** context) { return *context = current, SUCCESS; }
int cuCtxSynchronize() {
    const std::lock_guard guard(state().lock);
    if (recording) return STREAM_CAPTURE_UNSUPPORTED;
    return finish_all(), SUCCESS;
}

// ---- Memory ----

int cuMemAlloc_v2(uintptr_t* at, size_t bytes) { return allocate(at, bytes, false); }
int cuMemFree_v2(uintptr_t at) { return release(at, false); }
int cuMemHostAlloc(void** at, size_t bytes, unsigned) { return allocate(reinterpret_cast<uintptr_t*>(at), bytes, true); }
int cuMemFreeHost(void* at) { return release(reinterpret_cast<uintptr_t>(at), true); }
int cuMemGetAddressRange_v2(uintptr_t* start, size_t* bytes, uintptr_t at) {
    const std::lock_guard guard(state().lock);
    const Allocation* const found = holding(at, 1);
    if (!found || found->host) return refused(INVALID_VALUE, "an address that is none of the device's");
    if (start) *start = std::prev(state().allocations.upper_bound(at))->first;
    if (bytes) *bytes = found->bytes;
    return SUCCESS;
}
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    const std::lock_guard guard(state().lock);
    return *total = MOST_MEMORY, *free = MOST_MEMORY - state().taken, SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, void* stream) { return copy(stream, to, reinterpret_cast<uintptr_t>(from), bytes, true, false); }
int cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, void* stream) { return copy(stream, reinterpret_cast<uintptr_t>(to), from, bytes, false, true); }
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void* stream) { return copy(stream, to, from, bytes, true, true); }
int cuMemcpyHtoD_v2(uintptr_t to, const void* from, size_t bytes) { return at_once(cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr)); }
int cuMemcpyDtoH_v2(void* to, uintptr_t from, size_t bytes) { return at_once(cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr)); }
int cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, void* stream) {
    const std::lock_guard guard(state().lock);
    if (!holding(to, bytes)) return refused(INVALID_VALUE, "memory beyond an allocation is set");
    return send(stream, [=] { std::memset(reinterpret_cast<void*>(to), value, bytes); });
}

// ---- Streams and graphs ----

int cuStreamCreate(void** stream, unsigned) {
    const std::lock_guard guard(state().lock);
    auto made = std::make_unique<Stream>();
    *stream = made.get();
    state().streams[*stream] = std::move(made);
    return SUCCESS;
}
int cuStreamDestroy_v2(void* stream) {
    const std::lock_guard guard(state().lock);
    Stream* const found = stream_of(stream);
    if (!found || !stream) return INVALID_HANDLE;
    finish(*found);
    state().streams.erase(stream);
    return SUCCESS;
}
// Only for streams that belong to one thread: whoever waits for an event waits for all that its stream was sent.
int cuEventCreate(void** event, unsigned) {
    const std::lock_guard guard(state().lock);
    *event = new char;
    state().events[*event] = nullptr;
    return SUCCESS;
}
int cuEventRecord(void* event, void* stream) {
    const std::lock_guard guard(state().lock);
    const auto found = state().events.find(event);
    if (found == state().events.end() || !stream_of(stream)) return INVALID_HANDLE;
    return found->second = stream, SUCCESS;
}
int cuStreamWaitEvent(void*, void* event, unsigned) {
    const std::lock_guard guard(state().lock);
    const auto found = state().events.find(event);
    if (found == state().events.end()) return INVALID_HANDLE;
    if (Stream* const before = found->second ? stream_of(found->second) : nullptr) finish(*before);
    return SUCCESS;
}
int cuEventDestroy_v2(void* event) {
    const std::lock_guard guard(state().lock);
    if (!state().events.erase(event)) return INVALID_HANDLE;
    delete static_cast<char*>(event);
    return SUCCESS;
}
int cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    const std::lock_guard guard(state().lock);
    return send(stream, [=] { function(data); });
}
int cuStreamSynchronize(void* stream) {
    const std::lock_guard guard(state().lock);
    Stream* const found = stream_of(stream);
    if (!found) return INVALID_HANDLE;
    if (found->recording || recording) return STREAM_CAPTURE_UNSUPPORTED;
    return finish(*found), SUCCESS;
}
int cuStreamBeginCapture_v2(void* stream, int) {
    const std::lock_guard guard(state().lock);
    Stream* const found = stream_of(stream);
    if (!found || !stream || found->recording) return INVALID_HANDLE;
    found->recording = std::make_unique<Graph>();
    recording++;
    return SUCCESS;
}
int cuStreamEndCapture(void* stream, void** graph) {
    const std::lock_guard guard(state().lock);
    Stream* const found = stream_of(stream);
    if (!found || !found->recording) return INVALID_HANDLE;
    recording--;
    *graph = found->recording.get();
    state().graphs[*graph] = std::move(found->recording);
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    const std::lock_guard guard(state().lock);
    const auto found = state().graphs.find(graph);
    if (found == state().graphs.end()) return INVALID_HANDLE;
    auto made = std::make_unique<Graph>(*found->second);
    *executable = made.get();
    state().executables[*executable] = std::move(made);
    return SUCCESS;
}
int cuGraphLaunch(void* executable, void* stream) {
    const std::lock_guard guard(state().lock);
    const auto found = state().executables.find(executable);
    Stream* const to = stream_of(stream);
    if (found == state().executables.end() || !to) return INVALID_HANDLE;
    to->work.insert(to->work.end(), found->second->work.begin(), found->second->work.end());
    return SUCCESS;
}
int cuGraphUpload(void*, void*) { return SUCCESS; }
int cuGraphDestroy(void* graph) {
    const std::lock_guard guard(state().lock);
    return state().graphs.erase(graph) ? SUCCESS : INVALID_HANDLE;
}
int cuGraphExecDestroy(void* executable) {
    const std::lock_guard guard(state().lock);
    return state().executables.erase(executable) ? SUCCESS : INVALID_HANDLE;
}

// ---- Modules and kernels ----

int cuModuleLoadData(void** module, const void* image) {
    const std::lock_guard guard(state().lock);
    const std::string text = static_cast<const char*>(image);
    if (text.find(".target sm_") == std::string::npos) return refused(INVALID_PTX, "a module that is no PTX");
    auto made = std::make_unique<Module>();
    const std::string mark = ".visible .entry ";
    for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1)) {
        const size_t from = at + mark.size(), end = text.find_first_of("(\n ", from);
        auto function = std::make_unique<Function>();
        function->name = text.substr(from, end - from);
        function->sizes = sizes_of(text.substr(end, text.find('{', end) - end));
        function->entry = shim::find(function->name.c_str());
        made->functions[function->name] = std::move(function);
    }
    *module = made.get();
    state().modules[*module] = std::move(made);
    return SUCCESS;
}
int cuModuleUnload(void* module) {
    const std::lock_guard guard(state().lock);
    return state().modules.erase(module) ? SUCCESS : INVALID_HANDLE;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    const std::lock_guard guard(state().lock);
    const auto found = state().modules.find(module);
    if (found == state().modules.end()) return INVALID_HANDLE;
    const auto entry = found->second->functions.find(name);
    if (entry == found->second->functions.end()) return NOT_FOUND;
    if (!entry->second->entry || entry->second->sizes.empty()) return refused(NOT_FOUND, std::string("the PTX names a kernel that the shim does not know: ") + name);
    return *function = entry->second.get(), SUCCESS;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    const std::lock_guard guard(state().lock);
    if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || static_cast<size_t>(value) > MOST_SHARED) return INVALID_VALUE;
    Function& it = *static_cast<Function*>(function);
    it.shared = static_cast<size_t>(value) > FREE_SHARED ? static_cast<size_t>(value) : FREE_SHARED;
    return SUCCESS;
}
int cuFuncGetAttribute(int* value, int attribute, void* function) {
    if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES) return INVALID_VALUE;
    return *value = static_cast<int>(static_cast<Function*>(function)->shared), SUCCESS;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned block, unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments, void** extra) {
    const std::lock_guard guard(state().lock);
    if (!current) return INVALID_CONTEXT;
    const Function& it = *static_cast<Function*>(function);
    if (x == 0 || x > MOST_BLOCKS || y != 1 || z != 1 || block_y != 1 || block_z != 1 || extra) return refused(INVALID_VALUE, it.name + ": a grid of " + std::to_string(x));
    if (block != it.entry->threads) return refused(INVALID_VALUE, it.name + ": a block of " + std::to_string(block));
    if (shared > it.shared) return refused(INVALID_VALUE, it.name + ": shared memory that was not asked for");
    auto launch = std::make_shared<Launch>();
    *launch = {it.entry, x, block, shared, {}};
    for (size_t i = 0; i < it.sizes.size(); i++) {
        launch->arguments.emplace_back((it.sizes[i] + 7) / 8);
        std::memcpy(launch->arguments.back().data(), arguments[i], it.sizes[i]);
    }
    return send(stream, [launch] {
        // Every launch has another schedule.
        shim::set_seed(state().launches++);
        launch->run();
    });
}

}  // extern "C"
