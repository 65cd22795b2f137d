// A stand-in for NVIDIA's cuBLASLt: what a program that loads `libcublasLt.so` finds where there is no GPU. Products are
// computed on the host, in float64, one element after the other.
//
// It is stricter than the library where that finds mistakes:
// - it does its work when the stream does, by a function of the host's that goes there (cuLaunchHostFunc);
// - operands, the bias and the workspace have to lie within memory of the device, to their last element;
// - operands have to be aligned as the preference said, the algorithm has to be the problem's, leading dimensions no less
//   than columns are long;
// - f32 has to stay f32 (CUBLAS_COMPUTE_32F), and sums may not be joined in the output's type;
// - where a product has more than 96 terms and no batch, it says that it has no algorithm if the results are a single
//   column by columns: so that a product without one is tried as well;
// - a product of 61 terms and 13 columns (rows, by columns) fails when it is launched, and nothing is sent;
// - an object that is destroyed twice, or not at all before its library, aborts.
//
// It says nothing of speed, of what the library's algorithms round to, or of which it would choose.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>

extern "C" {
int cuLaunchHostFunc(void* stream, void (*function)(void*), void* data);
int cuMemGetAddressRange_v2(uintptr_t* start, size_t* bytes, uintptr_t at);
}

namespace {

enum Status : int { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, INTERNAL_ERROR = 14, NOT_SUPPORTED = 15 };
enum Kind : int { R_32F = 0, R_16F = 2, R_16BF = 14 };
constexpr int COMPUTE_32F = 68;
enum LayoutAttribute : int { BATCH_COUNT = 5, BATCH_OFFSET = 6 };
enum Attribute : int { TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8 };
enum Epilogue : uint32_t { PLAIN = 1, RELU = 2, BIAS = 4, GELU = 32 };
enum PreferenceAttribute : int { WORKSPACE_BYTES = 1, REDUCTION_SCHEMES = 3, ALIGNMENT_A = 5 };
constexpr uint32_t JOINED_AS_COMPUTED = 2;
constexpr uint64_t LAYOUT = 0x6c61796f7574, DESCRIPTION = 0x64657363, PREFERENCE = 0x70726566, ALGORITHM = 0x616c676f, GONE = 0;

struct Layout {
    uint64_t mark;
    Kind kind;
    uint64_t rows, columns;
    int64_t leading, offset;
    int32_t count;
};
struct Description {
    uint64_t mark;
    int32_t turned[2];
    uint32_t epilogue;
    uint64_t bias;
};
struct Preference {
    uint64_t mark, workspace;
    uint32_t schemes, alignment[4];
};
// What the caller holds: algorithms are copied about.
struct Algorithm {
    uint64_t mark, workspace, alignment[4], problem, rest;
};
struct Found {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Algorithm) == 64 && sizeof(Found) == 96);

int living = 0, handles = 0;  // objects that were made, and begun libraries
std::mutex lock;

[[noreturn]] void fault(const char* what) {
    std::fprintf(stderr, "stand-in cuBLASLt: %s\n", what);
    std::abort();
}
int refused(int status, const char* why) {
    std::fprintf(stderr, "stand-in cuBLASLt: %s\n", why);
    return status;
}

template <class T> T* made(T value) {
    const std::lock_guard guard(lock);
    living++;
    return new T(value);
}
template <class T> int destroyed(T* it, uint64_t mark) {
    const std::lock_guard guard(lock);
    if (!it || it->mark != mark) fault("an object is destroyed that is none");
    it->mark = GONE;
    living--;
    delete it;
    return SUCCESS;
}
template <class T> int set(T& to, const void* from, size_t bytes) {
    if (bytes != sizeof(T)) return refused(INVALID_VALUE, "an attribute of another size");
    std::memcpy(&to, from, bytes);
    return SUCCESS;
}

// ---- Elements ----

size_t size_of(Kind kind) { return kind == R_32F ? 4 : 2; }

double half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return bits >> 15 ? -magnitude : magnitude;
}
uint16_t to_half(double x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const double magnitude = std::fabs(x);
    if (std::isnan(x)) return 0x7e00;
    if (magnitude >= 65520.0) return sign | 0x7c00;
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int scale = exponent - 11 < -24 ? -24 : exponent - 11;
    const double steps = std::nearbyint(std::ldexp(magnitude, -scale));  // ties to even
    const double rounded = std::ldexp(steps, scale);
    if (rounded < 0x1p-14) return sign | static_cast<uint16_t>(std::ldexp(rounded, 24));
    std::frexp(rounded, &exponent);
    return sign | static_cast<uint16_t>((exponent + 14) << 10 | (static_cast<int>(std::ldexp(rounded, 11 - exponent)) - 1024));
}
double read(Kind kind, uintptr_t base, int64_t at) {
    if (kind == R_32F) return reinterpret_cast<const float*>(base)[at];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(base)[at];
    if (kind == R_16F) return half(bits);
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float wide;
    std::memcpy(&wide, &word, 4);
    return wide;
}
void write(Kind kind, uintptr_t base, int64_t at, double x) {
    if (kind == R_32F) {
        reinterpret_cast<float*>(base)[at] = static_cast<float>(x);
    } else if (kind == R_16F) {
        reinterpret_cast<uint16_t*>(base)[at] = to_half(x);
    } else {
        const float wide = static_cast<float>(x);
        uint32_t word;
        std::memcpy(&word, &wide, 4);
        const bool nan = wide != wide;
        reinterpret_cast<uint16_t*>(base)[at] = static_cast<uint16_t>(nan ? 0x7fc0 : (word + 0x7fff + (word >> 16 & 1)) >> 16);
    }
}

// ---- A product ----

struct Work {
    Description description;
    Layout layout[4];
    uintptr_t at[4];
    double alpha, beta;

    double element(int operand, int64_t batch, uint64_t row, uint64_t column) const {
        const Layout& l = layout[operand];
        const bool turned = operand < 2 && description.turned[operand];
        const int64_t place = turned ? static_cast<int64_t>(row) * l.leading + static_cast<int64_t>(column) : static_cast<int64_t>(column) * l.leading + static_cast<int64_t>(row);
        return read(l.kind, at[operand], batch * l.offset + place);
    }
    void run() const {
        const Layout& d = layout[3];
        const uint64_t terms = description.turned[0] ? layout[0].rows : layout[0].columns;
        for (int64_t batch = 0; batch < d.count; batch++) {
            for (uint64_t column = 0; column < d.columns; column++) {
                for (uint64_t row = 0; row < d.rows; row++) {
                    double sum = 0;
                    for (uint64_t i = 0; i < terms; i++) sum += element(0, batch, row, i) * element(1, batch, i, column);
                    double made = alpha * sum + (beta != 0 ? beta * element(2, batch, row, column) : 0.0);
                    if (description.epilogue & BIAS) made += read(d.kind, description.bias, static_cast<int64_t>(row));
                    if (description.epilogue & RELU) made = made < 0 ? 0 : made;
                    if (description.epilogue & GELU) made = 0.5 * made * (1 + std::tanh(0.7978845608028654 * (made + 0.044715 * made * made * made)));
                    write(d.kind, at[3], batch * d.offset + static_cast<int64_t>(column) * d.leading + static_cast<int64_t>(row), made);
                }
            }
        }
    }
};

// Works stay: a graph may repeat them.
std::deque<Work>& works() {
    static auto* const it = new std::deque<Work>;
    return *it;
}

bool within(uintptr_t at, size_t bytes) {
    uintptr_t start = 0;
    size_t all = 0;
    return cuMemGetAddressRange_v2(&start, &all, at) == SUCCESS && bytes <= all - (at - start);
}
size_t extent(const Layout& l) {
    const int64_t last = (l.count - 1) * l.offset + (static_cast<int64_t>(l.columns) - 1) * l.leading + static_cast<int64_t>(l.rows);
    return static_cast<size_t>(last) * size_of(l.kind);
}
uint64_t problem(const Description& d, const Layout* const* layouts) {
    uint64_t hash = d.epilogue * 31 + static_cast<uint64_t>(d.turned[0] * 2 + d.turned[1]);
    for (int i = 0; i < 4; i++) {
        const Layout& l = *layouts[i];
        for (const uint64_t word : {l.rows, l.columns, static_cast<uint64_t>(l.leading), static_cast<uint64_t>(l.count), static_cast<uint64_t>(l.kind)}) hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    }
    return hash;
}

// Nothing if the dims of a product fit each other.
const char* wrong(const Description& d, const Layout* const* layouts) {
    const Layout &a = *layouts[0], &b = *layouts[1], &c = *layouts[2], &to = *layouts[3];
    const auto shape = [](const Layout& l, bool turned, int axis) { return turned == (axis == 0) ? l.columns : l.rows; };
    for (int i = 0; i < 4; i++) {
        const Layout& l = *layouts[i];
        if (l.mark != LAYOUT) fault("a layout that is none");
        if (l.leading < static_cast<int64_t>(l.rows)) return "a leading dimension shorter than a column";
        if (l.kind != to.kind || l.count != to.count) return "operands of several types, or batches of several lengths";
    }
    if (shape(a, d.turned[0], 1) != shape(b, d.turned[1], 0)) return "operands with another number of terms";
    if (shape(a, d.turned[0], 0) != to.rows || shape(b, d.turned[1], 1) != to.columns) return "a result of another shape";
    if (c.rows != to.rows || c.columns != to.columns) return "something of another shape is added";
    if ((d.epilogue & BIAS) && !d.bias) return "a bias that is nowhere";
    return nullptr;
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return 130000; }
int cublasLtCreate(void** handle) {
    const std::lock_guard guard(lock);
    handles++;
    return *handle = &handles, SUCCESS;
}
int cublasLtDestroy(void* handle) {
    const std::lock_guard guard(lock);
    if (handle != &handles) fault("a library is ended that did not begin");
    if (--handles == 0 && living != 0) fault("the library ends before what belongs to it");
    return SUCCESS;
}
int cublasLtMatrixLayoutCreate(Layout** layout, Kind kind, uint64_t rows, uint64_t columns, int64_t leading) {
    if (kind != R_32F && kind != R_16F && kind != R_16BF) return refused(INVALID_VALUE, "a type that it does not know");
    return *layout = made(Layout{LAYOUT, kind, rows, columns, leading, 0, 1}), SUCCESS;
}
int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t bytes) {
    if (attribute == BATCH_COUNT) return set(layout->count, value, bytes);
    if (attribute == BATCH_OFFSET) return set(layout->offset, value, bytes);
    return refused(INVALID_VALUE, "an attribute of layouts that it does not know");
}
int cublasLtMatrixLayoutDestroy(Layout* layout) { return destroyed(layout, LAYOUT); }
int cublasLtMatmulDescCreate(Description** description, int compute, Kind scale) {
    if (compute != COMPUTE_32F || scale != R_32F) return refused(INVALID_VALUE, "sums that are no plain float32");
    return *description = made(Description{DESCRIPTION, {0, 0}, PLAIN, 0}), SUCCESS;
}
int cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value, size_t bytes) {
    if (attribute == TRANSA || attribute == TRANSB) return set(description->turned[attribute - TRANSA], value, bytes);
    if (attribute == EPILOGUE) return set(description->epilogue, value, bytes);
    if (attribute == BIAS_POINTER) return set(description->bias, value, bytes);
    return refused(INVALID_VALUE, "an attribute of products that it does not know");
}
int cublasLtMatmulDescDestroy(Description* description) { return destroyed(description, DESCRIPTION); }
int cublasLtMatmulPreferenceCreate(Preference** preference) {
    return *preference = made(Preference{PREFERENCE, 0, 7, {256, 256, 256, 256}}), SUCCESS;
}
int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    if (attribute == WORKSPACE_BYTES) return set(preference->workspace, value, bytes);
    if (attribute == REDUCTION_SCHEMES) return set(preference->schemes, value, bytes);
    if (attribute >= ALIGNMENT_A && attribute < ALIGNMENT_A + 4) return set(preference->alignment[attribute - ALIGNMENT_A], value, bytes);
    return refused(INVALID_VALUE, "an attribute of preferences that it does not know");
}
int cublasLtMatmulPreferenceDestroy(Preference* preference) { return destroyed(preference, PREFERENCE); }

int cublasLtMatmulAlgoGetHeuristic(void*, Description* d, Layout* a, Layout* b, Layout* c, Layout* to, Preference* preference, int wanted, Found* found, int* count) {
    const Layout* const layouts[4] = {a, b, c, to};
    if (d->mark != DESCRIPTION || preference->mark != PREFERENCE || wanted < 1) fault("an object that is none");
    if (const char* const why = wrong(*d, layouts)) return refused(INVALID_VALUE, why);
    if (preference->schemes & ~JOINED_AS_COMPUTED) return refused(INVALID_VALUE, "sums that may be joined as halves");
    const uint64_t terms = d->turned[0] ? a->rows : a->columns;
    if (terms > 96 && to->count == 1 && to->columns == 1) return *count = 0, NOT_SUPPORTED;
    *found = {};
    found->algorithm = {ALGORITHM, preference->workspace, {}, problem(*d, layouts), 0};
    for (int i = 0; i < 4; i++) found->algorithm.alignment[i] = preference->alignment[i];
    found->workspace = preference->workspace;
    return *count = 1, SUCCESS;
}

int cublasLtMatmul(void* handle, Description* d, const float* alpha, const void* a, Layout* a_layout, const void* b, Layout* b_layout, const float* beta, const void* c, Layout* c_layout, void* to,
                   Layout* to_layout, const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
    const Layout* const layouts[4] = {a_layout, b_layout, c_layout, to_layout};
    const void* const operands[4] = {a, b, c, to};
    if (!handle) return NOT_INITIALIZED;
    if (const char* const why = wrong(*d, layouts)) return refused(INVALID_VALUE, why);
    if (algorithm->mark != ALGORITHM || algorithm->problem != problem(*d, layouts)) return refused(INVALID_VALUE, "an algorithm of another problem");
    if (workspace_bytes < algorithm->workspace || (workspace_bytes > 0 && !within(reinterpret_cast<uintptr_t>(workspace), workspace_bytes))) return refused(INVALID_VALUE, "a workspace that is none");
    Work work{*d, {*a_layout, *b_layout, *c_layout, *to_layout}, {}, *alpha, *beta};
    for (int i = 0; i < 4; i++) {
        work.at[i] = reinterpret_cast<uintptr_t>(operands[i]);
        if (work.at[i] % algorithm->alignment[i] != 0) return refused(INVALID_VALUE, "an operand that is not aligned as was said");
        if (!within(work.at[i], extent(*layouts[i]))) return refused(INVALID_VALUE, "an operand beyond its memory");
    }
    if ((d->epilogue & BIAS) && !within(d->bias, to_layout->rows * size_of(to_layout->kind))) return refused(INVALID_VALUE, "a bias beyond its memory");
    if ((d->turned[0] ? a_layout->rows : a_layout->columns) == 61 && to_layout->rows == 13) return INTERNAL_ERROR;
    const std::lock_guard guard(lock);
    works().push_back(work);
    return cuLaunchHostFunc(stream, [](void* data) { static_cast<const Work*>(data)->run(); }, &works().back());
}

}  // extern "C"
