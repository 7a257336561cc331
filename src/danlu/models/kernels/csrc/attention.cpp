// The part of blocked attention between its two matrix products: masked softmax with dropout, and its gradient.
#pragma once
#include <unordered_map>
#include <utility>

#include "common.cpp"

// One block of queries against keys [first_key, first_key + L). Rows are ordered (batch, kv head, group, query).
// codes (batch, T), or null: |code| is the segment a token belongs to, a negative code is a key nobody may attend to.
struct Block {
  int64_t batch, kv_heads, groups, queries, L;
  int64_t first_batch, first_query, first_key, T;
  const int32_t* codes;
  int causal;
  float scale, dropout;
  uint64_t seed;
  int threads;
};

struct Row {
  int64_t end;          // keys at or past it are masked by causality
  const int32_t* keys;  // null: every key before `end` is attended to
  int32_t segment;
  uint32_t key;  // dropout: with the key's index, the counter
};

static Row describe(const Block& block, int64_t row) {
  const int64_t query = row % block.queries, head = row / block.queries;
  const int64_t batch = head / (block.groups * block.kv_heads);
  const int64_t position = block.first_query + query;
  Row out;
  out.end = block.L;
  if (block.causal) {
    const int64_t reach = position + 1 - block.first_key;
    out.end = reach < 0 ? 0 : (reach < block.L ? reach : block.L);
  }
  const int32_t* codes = block.codes ? block.codes + (block.first_batch + batch) * block.T : nullptr;
  out.keys = codes ? codes + block.first_key : nullptr;
  out.segment = codes ? std::abs(codes[position]) : 0;
  // The counter names the element by its place in the whole attention, so that no choice of blocks changes a mask.
  const uint64_t place = ((block.first_batch * block.groups * block.kv_heads + head) * block.T) + position;
  out.key = static_cast<uint32_t>(mix64(block.seed ^ mix64(place)));
  return out;
}

// A bitwise choice: a branch between floats keeps the compiler from vectorising the loop round it.
static inline float where(bool yes, float x, float otherwise = 0.0f) {
  const uint32_t mask = yes ? 0xffffffffu : 0u;
  return bits<float>((bits<uint32_t>(x) & mask) | (bits<uint32_t>(otherwise) & ~mask));
}

static inline float kept(uint32_t key, uint32_t index, uint32_t threshold, float boost) {
  return mix32(key + index * 0x9e3779b9u) >= threshold ? boost : 0.0f;
}

static uint32_t drop_threshold(float p) { return static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0); }

template <class T>
static void drop(T* x, int64_t n, const Block& block, const Row& row) {
  const uint32_t threshold = drop_threshold(block.dropout), first = static_cast<uint32_t>(block.first_key);
  const float boost = 1.0f / (1.0f - block.dropout);
#pragma omp simd
  for (int64_t k = 0; k < n; ++k)
    store(x + k, load(x + k) * kept(row.key, first + static_cast<uint32_t>(k), threshold, boost));
}

template <class T>
static float masked_maximum(const T* x, const Row& row) {
  const int32_t *keys = row.keys, segment = row.segment;
  float best = -kInf;
  if (!keys) {
#pragma omp simd reduction(max : best)
    for (int64_t k = 0; k < row.end; ++k) {
      const float s = load(x + k);
      best = s > best ? s : best;
    }
    return best;
  }
#pragma omp simd reduction(max : best)
  for (int64_t k = 0; k < row.end; ++k) {
    const float s = where(keys[k] == segment, load(x + k), -kInf);
    best = s > best ? s : best;
  }
  return best;
}

static bool attends_to_any(const Row& row) {
  for (int64_t k = 0; k < row.end; ++k)
    if (!row.keys || row.keys[k] == row.segment) return true;
  return false;
}

// x <- exp(scale x - shift) where attended, 0 elsewhere; gives the sum.
template <bool Masked, class T>
static float exponentials(T* x, const Row& row, float scale, float shift) {
  const int32_t *keys = row.keys, segment = row.segment;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < row.end; ++k) {
    float e = fast_exp(load(x + k) * scale - shift);
    if (Masked) e = where(keys[k] == segment, e);
    sum += e;
    store(x + k, e);
  }
  return sum;
}

// p: scores -> probabilities after dropout; g: their gradient -> the gradient of the scores. P itself stays in fp32.
template <bool Masked, bool Dropped, class T>
static void gradient(T* p, T* g, const Block& block, const Row& row, float lse, float delta) {
  const int32_t *keys = row.keys, segment = row.segment;
  const uint32_t threshold = drop_threshold(block.dropout), first = static_cast<uint32_t>(block.first_key);
  const float boost = 1.0f / (1.0f - block.dropout), scale = block.scale;
#pragma omp simd
  for (int64_t k = 0; k < row.end; ++k) {
    float e = fast_exp(load(p + k) * scale - lse);
    if (Masked) e = where(keys[k] == segment, e);
    const float keep = Dropped ? kept(row.key, first + static_cast<uint32_t>(k), threshold, boost) : 1.0f;
    store(g + k, e * (load(g + k) * keep - delta) * scale);
    store(p + k, e * keep);
  }
}

template <class T>
static void clear(T* x, int64_t from, int64_t to) {
  if (to > from) std::memset(x + from, 0, sizeof(T) * (to - from));
}

// scores (rows, L) -> exp(score - max), dropped out; inverse (rows): 1 / sum, which the caller multiplies into the
// output: dividing L probabilities a row would cost more than dividing its D outputs. lse (B, heads, T).
template <class T>
static void softmax_forward(const Block& block, T* scores, float* inverse, float* lse) {
  const int64_t rows = block.batch * block.kv_heads * block.groups * block.queries;
#pragma omp parallel for num_threads(block.threads) schedule(static, 16)
  for (int64_t r = 0; r < rows; ++r) {
    const Row row = describe(block, r);
    T* x = scores + r * block.L;
    const float best = masked_maximum(x, row) * block.scale;
    // A maximum of -inf is also what a row of NaN gives, and that one must stay NaN.
    const bool nothing = best == -kInf && !attends_to_any(row);
    float sum = 0;
    if (!nothing) sum = row.keys ? exponentials<true>(x, row, block.scale, best) : exponentials<false>(x, row, block.scale, best);
    clear(x, nothing ? 0 : row.end, block.L);
    if (block.dropout > 0) drop(x, row.end, block, row);
    inverse[r] = nothing ? 0.0f : 1.0f / sum;
    const int64_t head = block.first_batch * block.kv_heads * block.groups + r / block.queries;
    lse[head * block.T + block.first_query + r % block.queries] = nothing ? kInf : best + std::log(sum);
  }
}

// scores -> P after dropout, for the gradient of the values; grads = dP -> dS = P (dP - delta) scale.
template <class T>
static void softmax_backward(const Block& block, T* scores, T* grads, const float* lse, const float* delta) {
  const int64_t rows = block.batch * block.kv_heads * block.groups * block.queries;
  const bool dropped = block.dropout > 0;
#pragma omp parallel for num_threads(block.threads) schedule(static, 16)
  for (int64_t r = 0; r < rows; ++r) {
    const Row row = describe(block, r);
    const int64_t head = block.first_batch * block.kv_heads * block.groups + r / block.queries;
    const int64_t place = head * block.T + block.first_query + r % block.queries;
    T *p = scores + r * block.L, *g = grads + r * block.L;
    const float l = lse[place], d = delta[place];
    const bool nothing = l == kInf;
    clear(p, nothing ? 0 : row.end, block.L);
    clear(g, nothing ? 0 : row.end, block.L);
    if (nothing) continue;
    if (row.keys)
      dropped ? gradient<true, true>(p, g, block, row, l, d) : gradient<true, false>(p, g, block, row, l, d);
    else
      dropped ? gradient<false, true>(p, g, block, row, l, d) : gradient<false, false>(p, g, block, row, l, d);
  }
}

// For each row and block of `step` queries, the keys [low, high) that any of its queries may attend to.
extern "C" void key_ranges(const int32_t* codes, int64_t B, int64_t T, int64_t step, int causal, int64_t* low,
                           int64_t* high) {
  const int64_t blocks = (T + step - 1) / step;
  for (int64_t b = 0; b < B; ++b) {
    const int32_t* row = codes + b * T;
    std::unordered_map<int32_t, std::pair<int64_t, int64_t>> spans;
    for (int64_t t = 0; t < T; ++t) {
      if (row[t] < 0) continue;
      const auto found = spans.try_emplace(row[t], t, t + 1).first;
      found->second.second = t + 1;
    }
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t end = (i + 1) * step < T ? (i + 1) * step : T;
      int64_t from = end, to = 0;
      int32_t seen = -1;
      for (int64_t t = i * step; t < end; ++t) {
        const int32_t segment = std::abs(row[t]);
        if (segment == seen) continue;
        seen = segment;
        const auto found = spans.find(segment);
        if (found == spans.end()) continue;
        from = found->second.first < from ? found->second.first : from;
        to = found->second.second > to ? found->second.second : to;
      }
      if (causal && to > end) to = end;
      low[b * blocks + i] = from < to ? from : 0;
      high[b * blocks + i] = from < to ? to : 0;
    }
  }
}

extern "C" void softmax_forward_f32(const Block* block, float* scores, float* inverse, float* lse) {
  softmax_forward(*block, scores, inverse, lse);
}
extern "C" void softmax_forward_bf16(const Block* block, bf16* scores, float* inverse, float* lse) {
  softmax_forward(*block, scores, inverse, lse);
}
extern "C" void softmax_backward_f32(const Block* block, float* scores, float* grads, const float* lse,
                                     const float* delta) {
  softmax_backward(*block, scores, grads, lse, delta);
}
extern "C" void softmax_backward_bf16(const Block* block, bf16* scores, bf16* grads, const float* lse,
                                      const float* delta) {
  softmax_backward(*block, scores, grads, lse, delta);
}
