// Cross-entropy over rows of logits, its gradient written over the logits.
// loss_n = w_n [(1 - e) q^c l + e (lse_n - mean_v x_n,v)],  l = lse_n - x_n,y,  q = 1 - exp(-l)
// d loss_n / d x_nv = w_n [(1 - e) g (p_nv - 1(v = y)) + e (p_nv - 1 / V)],  g = q^c + c q^(c-1) (1 - q) l,  1 for c = 0
#include "common.cpp"

template <class T>
static float row_maximum(const T* row, int64_t V) {
  float best = -kInf;
#pragma omp simd reduction(max : best)
  for (int64_t v = 0; v < V; ++v) {
    const float x = load(row + v);
    best = x > best ? x : best;
  }
  return best;
}

// Sums go by spans: one long fp32 sum over 50,000 tokens would lose a digit.
constexpr int64_t kSpan = 1024;

// fp32 rows keep exp(x - max) in place, which saves the second exponential; bf16 rows would round it twice.
static float span_exp_sum(float* row, int64_t n, float best) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t v = 0; v < n; ++v) {
    const float e = fast_exp(row[v] - best);
    row[v] = e;
    sum += e;
  }
  return sum;
}

static float span_exp_sum(const bf16* row, int64_t n, float best) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t v = 0; v < n; ++v) sum += fast_exp(load(row + v) - best);
  return sum;
}

template <class T>
static float row_exp_sum(T* row, int64_t V, float best) {
  float sum = 0;
  for (int64_t v = 0; v < V; v += kSpan) sum += span_exp_sum(row + v, V - v < kSpan ? V - v : kSpan, best);
  return sum;
}

static void row_gradient(float* row, int64_t V, float, float sum, float weight, float uniform) {
  const float scale = weight / sum;
#pragma omp simd
  for (int64_t v = 0; v < V; ++v) row[v] = row[v] * scale - uniform;
}

static void row_gradient(bf16* row, int64_t V, float best, float sum, float weight, float uniform) {
  const float scale = weight / sum;
#pragma omp simd
  for (int64_t v = 0; v < V; ++v) store(row + v, fast_exp(load(row + v) - best) * scale - uniform);
}

template <class T>
static float row_mean(const T* row, int64_t V) {
  float total = 0;
  for (int64_t v = 0; v < V; v += kSpan) {
    const int64_t end = V - v < kSpan ? V : v + kSpan;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t u = v; u < end; ++u) sum += load(row + u);
    total += sum;
  }
  return total / V;
}

// The focal loss of a row (Lin et al. 2017, equation 4) and its slope by the row's cross-entropy.
static float focal(float loss, float focus, float* slope) {
  const float wrong = -std::expm1(-loss);
  if (wrong <= 0) return *slope = 0.0f;
  const float factor = std::pow(wrong, focus);
  *slope = factor + focus * factor / wrong * (1.0f - wrong) * loss;
  return factor * loss;
}

template <class T>
static void cross_entropy(T* logits, int64_t N, int64_t V, const int64_t* labels, const float* weights,
                          float smoothing, float focus, int want_gradient, float* losses, float* plain, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t n = 0; n < N; ++n) {
    T* row = logits + n * V;
    const int64_t label = labels[n];
    const float weight = weights ? weights[n] : 1.0f;
    const float at_label = load(row + label);
    const float mean = smoothing > 0 ? row_mean(row, V) : 0.0f;
    const float best = row_maximum(row, V);
    const float sum = row_exp_sum(row, V, best);
    const float lse = best + std::log(sum);
    // With an infinite or NaN logit torch gives NaN; so must this, or a diverged run would look healthy.
    plain[n] = lse - at_label;
    float slope = 1.0f;
    const float focused = focus > 0 ? focal(plain[n], focus, &slope) : plain[n];
    losses[n] = weight * ((1.0f - smoothing) * focused + (smoothing > 0 ? smoothing * (lse - mean) : 0.0f));
    if (!want_gradient) continue;
    const float uniform = weight * smoothing / V, scale = weight * (slope + smoothing * (1.0f - slope));
    row_gradient(row, V, best, sum, scale, uniform);
    const float p = fast_exp(at_label - best) / sum;
    store(row + label, scale * p - weight * (1.0f - smoothing) * slope - uniform);
  }
}

extern "C" void cross_entropy_f32(float* logits, int64_t N, int64_t V, const int64_t* labels, const float* weights,
                                  float smoothing, float focus, int want_gradient, float* losses, float* plain,
                                  int threads) {
  cross_entropy(logits, N, V, labels, weights, smoothing, focus, want_gradient, losses, plain, threads);
}

extern "C" void cross_entropy_bf16(bf16* logits, int64_t N, int64_t V, const int64_t* labels, const float* weights,
                                   float smoothing, float focus, int want_gradient, float* losses, float* plain,
                                   int threads) {
  cross_entropy(logits, N, V, labels, weights, smoothing, focus, want_gradient, losses, plain, threads);
}
