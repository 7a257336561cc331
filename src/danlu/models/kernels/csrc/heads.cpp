// Blocked attention in bf16, a head at a time: both products and the softmax between them while a block of queries is in
// the cache. It needs AVX-512's products of bf16 pairs; without them `heads_available` says 0 and blocks.py does it.
//
// vdpbf16ps multiplies pairs that lie side by side along the summed axis. So what stands on the right of a product is
// laid out as words of two, [pairs][columns]; what stands on the left is read a word at a time, wherever it lies.
#include <vector>

#include "attention.cpp"

struct Heads {
  int64_t B, H, KV, T, D;
  int64_t q[3], k[3], v[3];  // strides of (batch, head, time); the last axis is dense
  const int32_t* codes;      // as in Block
  int causal;
  float scale, dropout;
  uint64_t seed;
  int threads;
};

#ifdef __AVX512BF16__
#include <immintrin.h>

extern "C" int heads_available() { return 1; }

constexpr int64_t kQueries = 64;
constexpr int64_t kLanes = 16;
static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Words of the left side: row m, pair p at base[m * by_row + p * by_pair].
struct Left {
  const uint32_t* base;
  int64_t by_row, by_pair;
};

template <int M, int V>
static inline void tile(Left a, const uint32_t* b, int64_t width, int64_t pairs, float* c, int64_t ldc, bool add) {
  __m512 sums[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) sums[m][v] = add ? _mm512_loadu_ps(c + m * ldc + v * kLanes) : _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    __m512bh right[V];
    for (int v = 0; v < V; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + p * width + v * kLanes);
    for (int m = 0; m < M; ++m) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(a.base[m * a.by_row + p * a.by_pair]));
      for (int v = 0; v < V; ++v) sums[m][v] = _mm512_dpbf16_ps(sums[m][v], left, right[v]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(c + m * ldc + v * kLanes, sums[m][v]);
}

template <int V>
static void columns(Left a, int64_t rows, const uint32_t* b, int64_t width, int64_t pairs, float* c, int64_t ldc,
                    bool add) {
  int64_t m = 0;
  for (; m + 6 <= rows; m += 6) tile<6, V>({a.base + m * a.by_row, a.by_row, a.by_pair}, b, width, pairs, c + m * ldc, ldc, add);
  for (; m + 2 <= rows; m += 2) tile<2, V>({a.base + m * a.by_row, a.by_row, a.by_pair}, b, width, pairs, c + m * ldc, ldc, add);
  if (m < rows) tile<1, V>({a.base + m * a.by_row, a.by_row, a.by_pair}, b, width, pairs, c + m * ldc, ldc, add);
}

// c (rows, n) = or += left (rows, 2 pairs) b, where b is words [pairs][width] and n a multiple of the lanes.
static void product(Left a, int64_t rows, const uint32_t* b, int64_t width, int64_t pairs, int64_t n, float* c,
                    int64_t ldc, bool add) {
  int64_t at = 0;
  for (; at + 64 <= n; at += 64) columns<4>(a, rows, b + at, width, pairs, c + at, ldc, add);
  for (; at + 32 <= n; at += 32) columns<2>(a, rows, b + at, width, pairs, c + at, ldc, add);
  if (at < n) columns<1>(a, rows, b + at, width, pairs, c + at, ldc, add);
}

// Rows (n, D) -> words [D / 2][width], a pair along D in each: the right side of a product that sums over D.
static void pack_transposed(const bf16* x, int64_t stride, int64_t n, int64_t D, int64_t width, uint32_t* out) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t d = 0; d < D / 2; ++d) std::memcpy(out + d * width + i, x + i * stride + 2 * d, 4);
  for (int64_t d = 0; d < D / 2; ++d)
    for (int64_t i = n; i < width; ++i) out[d * width + i] = 0;
}

// Rows (n, width) -> words [n / 2][width], a pair of rows in each: the right side of a product that sums over rows, or
// the left side of one that sums over rows of what it is the transpose of.
static void pack_rows(const bf16* x, int64_t stride, int64_t n, int64_t width, uint32_t* out) {
  for (int64_t i = 0; i < n; i += 2) {
    const bf16 *one = x + i * stride, *two = one + stride;
    uint32_t* to = out + i / 2 * width;
    if (i + 1 < n)
      for (int64_t d = 0; d < width; ++d) to[d] = one[d] | static_cast<uint32_t>(two[d]) << 16;
    else
      for (int64_t d = 0; d < width; ++d) to[d] = one[d];
  }
}

static void narrow(const float* x, int64_t n, bf16* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, x[i]);
}

// What one thread works in; grows once, then stays.
struct Room {
  std::vector<float> scores, slopes, rows;
  std::vector<bf16> probs, changes;
  std::vector<uint32_t> keys, values, pairs, probs_pairs, changes_pairs, queries, grads;
};
static Room& room() {
  static thread_local Room mine;
  return mine;
}
template <class T>
static T* at_least(std::vector<T>& held, int64_t size) {
  if (static_cast<int64_t>(held.size()) < size) held.resize(size);
  return held.data();
}

// Keys [low, high) that any query of a block of kQueries may attend to, low and high at whole lanes.
struct Reach {
  std::vector<int64_t> low, high;
  int64_t blocks;
  explicit Reach(const Heads& s) : low(s.B * ((s.T + kQueries - 1) / kQueries)), high(low.size()), blocks((s.T + kQueries - 1) / kQueries) {
    if (s.codes) key_ranges(s.codes, s.B, s.T, kQueries, s.causal, low.data(), high.data());
    for (size_t i = 0; i < low.size(); ++i) {
      const int64_t end = (static_cast<int64_t>(i) % blocks + 1) * kQueries;
      if (!s.codes) high[i] = s.causal && end < s.T ? end : s.T;
      low[i] = low[i] / kLanes * kLanes;
      high[i] = round_up(high[i], kLanes);
    }
  }
};

static Block block_of(const Heads& s, int64_t b, int64_t h, int64_t first, int64_t queries, int64_t low, int64_t high) {
  Block out{};
  out.batch = out.kv_heads = out.groups = 1;
  out.queries = queries;
  out.L = (high < s.T ? high : s.T) - low;
  out.first_batch = b * s.H + h;  // the place of the whole head, which is all that dropout's counter asks for
  out.first_query = first;
  out.first_key = low;
  out.T = s.T;
  out.causal = s.causal;
  out.scale = s.scale;
  out.dropout = s.dropout;
  out.seed = s.seed;
  return out;
}

static Row row_of(const Heads& s, const Block& block, int64_t b, int64_t r) {
  Row row = describe(block, r);
  if (s.codes) {
    const int32_t* codes = s.codes + b * s.T;
    row.keys = codes + block.first_key;
    row.segment = std::abs(codes[block.first_query + r]);
  }
  return row;
}

// out (B, T, H, D), lse (B, H, T)
extern "C" void heads_forward(const Heads* given, const bf16* query, const bf16* key, const bf16* value, bf16* out,
                              float* lse) {
  const Heads& s = *given;
  const int64_t width = round_up(s.T, kLanes), groups = s.H / s.KV;
  const Reach reach(s);
#pragma omp parallel for num_threads(s.threads) schedule(dynamic, 1)
  for (int64_t bh = 0; bh < s.B * s.H; ++bh) {
    Room& r = room();
    const int64_t b = bh / s.H, h = bh % s.H;
    const bf16 *q = query + b * s.q[0] + h * s.q[1], *k = key + b * s.k[0] + h / groups * s.k[1];
    const bf16* v = value + b * s.v[0] + h / groups * s.v[1];
    uint32_t *keys = at_least(r.keys, s.D / 2 * width), *values = at_least(r.values, width / 2 * s.D);
    pack_transposed(k, s.k[2], s.T, s.D, width, keys);
    std::memset(values + s.T / 2 * s.D, 0, 4 * (width / 2 - s.T / 2) * s.D);
    pack_rows(v, s.v[2], s.T, s.D, values);
    float *scores = at_least(r.scores, kQueries * width), *rows = at_least(r.rows, kQueries * s.D);
    bf16* probs = at_least(r.probs, kQueries * width);
    float inverse[kQueries];
    for (int64_t i = 0; i < reach.blocks; ++i) {
      const int64_t first = i * kQueries, n = s.T - first < kQueries ? s.T - first : kQueries;
      const int64_t low = reach.low[b * reach.blocks + i], L = reach.high[b * reach.blocks + i] - low;
      const Block block = block_of(s, b, h, first, n, low, low + L);
      const Left left{reinterpret_cast<const uint32_t*>(q + first * s.q[2]), s.q[2] / 2, 1};
      product(left, n, keys + low, width, s.D / 2, L, scores, L, false);
      for (int64_t j = 0; j < n; ++j) {
        const Row row = row_of(s, block, b, j);
        float* x = scores + j * L;
        const float best = masked_maximum(x, row) * s.scale;
        const bool nothing = best == -kInf && !attends_to_any(row);
        float sum = 0;
        if (!nothing) sum = row.keys ? exponentials<true>(x, row, s.scale, best) : exponentials<false>(x, row, s.scale, best);
        clear(x, nothing ? 0 : row.end, L);
        if (s.dropout > 0) drop(x, row.end, block, row);
        narrow(x, L, probs + j * L);
        inverse[j] = nothing ? 0.0f : 1.0f / sum;
        lse[bh * s.T + first + j] = nothing ? kInf : best + std::log(sum);
      }
      product({reinterpret_cast<const uint32_t*>(probs), L / 2, 1}, n, values + low / 2 * s.D, s.D, L / 2, s.D, rows, s.D, false);
      for (int64_t j = 0; j < n; ++j) {
        bf16* to = out + ((b * s.T + first + j) * s.H + h) * s.D;
#pragma omp simd
        for (int64_t d = 0; d < s.D; ++d) store(to + d, rows[j * s.D + d] * inverse[j]);
      }
    }
  }
}

// One row: scores s -> P after dropout, their gradient g -> dS = P (g - delta) scale, both in bf16.
template <bool Masked, bool Dropped>
static void slope(const float* s, const float* g, const Block& block, const Row& row, float lse, float delta, bf16* p,
                  bf16* change) {
  const int32_t *keys = row.keys, segment = row.segment;
  const uint32_t threshold = drop_threshold(block.dropout), first = static_cast<uint32_t>(block.first_key);
  const float boost = 1.0f / (1.0f - block.dropout), scale = block.scale;
#pragma omp simd
  for (int64_t k = 0; k < row.end; ++k) {
    float e = fast_exp(s[k] * scale - lse);
    if (Masked) e = where(keys[k] == segment, e);
    const float keep = Dropped ? kept(row.key, first + static_cast<uint32_t>(k), threshold, boost) : 1.0f;
    store(change + k, e * (g[k] * keep - delta) * scale);
    store(p + k, e * keep);
  }
}

// dq (B, H, T, D), dk and dv (B, KV, T, D); sums: (2, B, H, T, D) of fp32 to work in, so that each head adds for itself
// and the order of additions does not depend on the threads. grad and out are (B, T, H, D).
extern "C" void heads_backward(const Heads* given, const bf16* grad, const bf16* query, const bf16* key,
                               const bf16* value, const bf16* out, const float* lse, bf16* dq, bf16* dk, bf16* dv,
                               float* sums) {
  const Heads& s = *given;
  const int64_t width = round_up(s.T, kLanes), groups = s.H / s.KV, across = s.H * s.D, size = s.T * s.D;
  const Reach reach(s);
#pragma omp parallel for num_threads(s.threads) schedule(dynamic, 1)
  for (int64_t bh = 0; bh < s.B * s.H; ++bh) {
    Room& r = room();
    const int64_t b = bh / s.H, h = bh % s.H;
    const bf16 *q = query + b * s.q[0] + h * s.q[1], *k = key + b * s.k[0] + h / groups * s.k[1];
    const bf16* v = value + b * s.v[0] + h / groups * s.v[1];
    float *to_key = sums + bh * size, *to_value = sums + (s.B * s.H + bh) * size;
    std::memset(to_key, 0, 4 * size);
    std::memset(to_value, 0, 4 * size);
    uint32_t *keys = at_least(r.keys, s.D / 2 * width), *values = at_least(r.values, s.D / 2 * width);
    uint32_t* key_pairs = at_least(r.pairs, width / 2 * s.D);
    pack_transposed(k, s.k[2], s.T, s.D, width, keys);
    pack_transposed(v, s.v[2], s.T, s.D, width, values);
    std::memset(key_pairs + s.T / 2 * s.D, 0, 4 * (width / 2 - s.T / 2) * s.D);
    pack_rows(k, s.k[2], s.T, s.D, key_pairs);
    float *scores = at_least(r.scores, kQueries * width), *slopes = at_least(r.slopes, kQueries * width);
    float* rows = at_least(r.rows, kQueries * s.D);
    bf16 *probs = at_least(r.probs, kQueries * width), *changes = at_least(r.changes, kQueries * width);
    uint32_t* probs_pairs = at_least(r.probs_pairs, kQueries / 2 * width);
    uint32_t* changes_pairs = at_least(r.changes_pairs, kQueries / 2 * width);
    uint32_t *query_pairs = at_least(r.queries, kQueries / 2 * s.D), *grad_pairs = at_least(r.grads, kQueries / 2 * s.D);
    for (int64_t i = 0; i < reach.blocks; ++i) {
      const int64_t first = i * kQueries, n = s.T - first < kQueries ? s.T - first : kQueries, pairs = (n + 1) / 2;
      const int64_t low = reach.low[b * reach.blocks + i], L = reach.high[b * reach.blocks + i] - low;
      const Block block = block_of(s, b, h, first, n, low, low + L);
      const bf16 *g = grad + (b * s.T + first) * across + h * s.D, *o = out + (b * s.T + first) * across + h * s.D;
      product({reinterpret_cast<const uint32_t*>(q + first * s.q[2]), s.q[2] / 2, 1}, n, keys + low, width, s.D / 2, L, scores, L, false);
      product({reinterpret_cast<const uint32_t*>(g), across / 2, 1}, n, values + low, width, s.D / 2, L, slopes, L, false);
      for (int64_t j = 0; j < n; ++j) {
        const Row row = row_of(s, block, b, j);
        float delta = 0;
#pragma omp simd reduction(+ : delta)
        for (int64_t d = 0; d < s.D; ++d) delta += load(g + j * across + d) * load(o + j * across + d);
        const float l = lse[bh * s.T + first + j];
        bf16 *p = probs + j * L, *c = changes + j * L;
        const float *x = scores + j * L, *y = slopes + j * L;
        const int64_t end = l == kInf ? 0 : row.end;
        clear(p, end, L);
        clear(c, end, L);
        if (l == kInf) continue;
        if (row.keys)
          s.dropout > 0 ? slope<true, true>(x, y, block, row, l, delta, p, c) : slope<true, false>(x, y, block, row, l, delta, p, c);
        else
          s.dropout > 0 ? slope<false, true>(x, y, block, row, l, delta, p, c) : slope<false, false>(x, y, block, row, l, delta, p, c);
      }
      pack_rows(probs, L, n, L, probs_pairs);
      pack_rows(changes, L, n, L, changes_pairs);
      pack_rows(q + first * s.q[2], s.q[2], n, s.D, query_pairs);
      pack_rows(g, across, n, s.D, grad_pairs);
      const int64_t real = (low + L < s.T ? low + L : s.T) - low;
      product({probs_pairs, 1, L}, real, grad_pairs, s.D, pairs, s.D, to_value + low * s.D, s.D, true);
      product({changes_pairs, 1, L}, real, query_pairs, s.D, pairs, s.D, to_key + low * s.D, s.D, true);
      product({reinterpret_cast<const uint32_t*>(changes), L / 2, 1}, n, key_pairs + low / 2 * s.D, s.D, L / 2, s.D, rows, s.D, false);
      narrow(rows, n * s.D, dq + (bh * s.T + first) * s.D);
    }
  }
#pragma omp parallel for num_threads(s.threads) schedule(static)
  for (int64_t at = 0; at < 2 * s.B * s.KV; ++at) {
    const int64_t part = at / (s.B * s.KV), head = at % (s.B * s.KV);
    float* from = sums + (part * s.B * s.H + head * groups) * size;
    for (int64_t g = 1; g < groups; ++g)
#pragma omp simd
      for (int64_t d = 0; d < size; ++d) from[d] += from[g * size + d];
    narrow(from, size, (part ? dv : dk) + head * size);
  }
}
#else
extern "C" int heads_available() { return 0; }
extern "C" void heads_forward(const Heads*, const bf16*, const bf16*, const bf16*, bf16*, float*) {}
extern "C" void heads_backward(const Heads*, const bf16*, const bf16*, const bf16*, const bf16*, const bf16*,
                               const float*, bf16*, bf16*, bf16*, float*) {}
#endif
