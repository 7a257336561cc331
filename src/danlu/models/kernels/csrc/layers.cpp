// RMSNorm and the gated SiLU of a Llama-like layer, each one pass forward and one backward.
#include "common.cpp"

// y = x r w with r = (mean x^2 + eps)^-1/2 (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4); r is kept.
template <class X, class Y>
static void rms_norm(const X* x, const float* w, float eps, int64_t N, int64_t D, Y* y, float* inverse, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t n = 0; n < N; ++n) {
    const X* row = x + n * D;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < D; ++d) sum += load(row + d) * load(row + d);
    const float r = 1.0f / std::sqrt(sum / D + eps);
    inverse[n] = r;
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) store(y + n * D + d, load(row + d) * r * w[d]);
  }
}

// dx = r (g w - x r^2 mean(g w x)), dw = sum_n g x r. Each of `parts` row ranges sums dw for itself, (parts, D), so
// that the order of the additions does not depend on which thread is faster.
template <class X, class Y>
static void rms_norm_backward(const Y* g, const X* x, const float* w, const float* inverse, int64_t N, int64_t D,
                              X* dx, float* dw, int parts, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < parts; ++part) {
    float* sums = dw ? dw + part * D : nullptr;
    for (int64_t n = N * part / parts; n < N * (part + 1) / parts; ++n) {
      const X* row = x + n * D;
      const Y* grad = g + n * D;
      const float r = inverse[n];
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t d = 0; d < D; ++d) dot += load(grad + d) * w[d] * load(row + d);
      const float back = dot * r * r / D;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) store(dx + n * D + d, r * (load(grad + d) * w[d] - load(row + d) * back));
      if (!sums) continue;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) sums[d] += load(grad + d) * load(row + d) * r;
    }
  }
}

// y = silu(a) b, silu(a) = a / (1 + e^-a) (Shazeer 2020, arXiv:2002.05202, equation 5)
template <class T>
static void gated_silu(const T* a, const T* b, int64_t n, T* y, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    const float x = load(a + i);
    const float s = 1.0f / (1.0f + fast_exp(-x));
    store(y + i, x * s * load(b + i));
  }
}

template <class T>
static void gated_silu_backward(const T* g, const T* a, const T* b, int64_t n, T* da, T* db, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    const float x = load(a + i), grad = load(g + i);
    const float s = 1.0f / (1.0f + fast_exp(-x));
    store(da + i, grad * load(b + i) * s * (1.0f + x * (1.0f - s)));
    store(db + i, grad * x * s);
  }
}

#define RMS_NORM(NAME, X, Y)                                                                                        \
  extern "C" void rms_norm_##NAME(const X* x, const float* w, float eps, int64_t N, int64_t D, Y* y, float* inverse, \
                                  int threads) {                                                                    \
    rms_norm(x, w, eps, N, D, y, inverse, threads);                                                                 \
  }                                                                                                                 \
  extern "C" void rms_norm_backward_##NAME(const Y* g, const X* x, const float* w, const float* inverse, int64_t N, \
                                           int64_t D, X* dx, float* dw, int parts, int threads) {                   \
    rms_norm_backward(g, x, w, inverse, N, D, dx, dw, parts, threads);                                              \
  }
RMS_NORM(f32_f32, float, float)
RMS_NORM(f32_bf16, float, bf16)
RMS_NORM(bf16_f32, bf16, float)
RMS_NORM(bf16_bf16, bf16, bf16)

#define GATED_SILU(NAME, T)                                                                             \
  extern "C" void gated_silu_##NAME(const T* a, const T* b, int64_t n, T* y, int threads) {             \
    gated_silu(a, b, n, y, threads);                                                                    \
  }                                                                                                     \
  extern "C" void gated_silu_backward_##NAME(const T* g, const T* a, const T* b, int64_t n, T* da, T* db, \
                                             int threads) {                                             \
    gated_silu_backward(g, a, b, n, da, db, threads);                                                   \
  }
GATED_SILU(f32, float)
GATED_SILU(bf16, bf16)

// Rotary embedding, halves apart: y = x cos + rotate(x) sin, rotate(x) = (-x2, x1) (Su et al. 2021, arXiv:2104.09864,
// equation 34, in the layout of GPT-NeoX). `back` gives the gradient: the transpose of the same rotation. Strides are
// those of (batch, head, time); cosines and sines are (batch or 1, T, D).
struct Rotary {
  int64_t B, H, T, D;
  int64_t from_b, from_h, from_t, to_b, to_h, to_t, angle_b;
  int back, threads;
};

template <class X, class Y>
static void rotary(const Rotary& s, const X* x, const float* cosines, const float* sines, Y* y) {
  const int64_t half = s.D / 2;
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(static)
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t t = 0; t < s.T; ++t)
      for (int64_t h = 0; h < s.H; ++h) {
        const X* from = x + b * s.from_b + h * s.from_h + t * s.from_t;
        Y* to = y + b * s.to_b + h * s.to_h + t * s.to_t;
        const float *c = cosines + b * s.angle_b + t * s.D, *n = sines + b * s.angle_b + t * s.D;
        // The sine that carries one half into the other is its target's forward, its source's backward.
        const float *into_low = s.back ? n + half : n, *into_high = s.back ? n : n + half;
        const float sign = s.back ? 1.0f : -1.0f;
#pragma omp simd
        for (int64_t d = 0; d < half; ++d) {
          const float low = load(from + d), high = load(from + half + d);
          store(to + d, low * c[d] + sign * high * into_low[d]);
          store(to + half + d, high * c[half + d] - sign * low * into_high[d]);
        }
      }
}

#define ROTARY(NAME, X, Y)                                                                                \
  extern "C" void rotary_##NAME(const Rotary* s, const X* x, const float* cosines, const float* sines, Y* y) { \
    rotary(*s, x, cosines, sines, y);                                                                     \
  }
ROTARY(f32_f32, float, float)
ROTARY(f32_bf16, float, bf16)
ROTARY(bf16_f32, bf16, float)
ROTARY(bf16_bf16, bf16, bf16)
