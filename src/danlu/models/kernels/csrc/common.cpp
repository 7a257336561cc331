// Words shared by every kernel: bf16 as raw 16-bit words, a branch-free exponential, a counter-based random hash.
// But for heads.cpp nothing uses intrinsics: the compiler turns these loops into AVX2, AVX-512 or NEON by itself, so that
// one source is right everywhere and is tested everywhere.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

using bf16 = uint16_t;
constexpr float kInf = std::numeric_limits<float>::infinity();

template <class To, class From>
static inline To bits(From from) {
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

static inline float load(const float* p) { return *p; }
static inline float load(const bf16* p) { return bits<float>(static_cast<uint32_t>(*p) << 16); }

static inline void store(float* p, float x) { *p = x; }
// Round to nearest even, as the hardware does. A NaN must stay one: rounding could carry it over into zero.
static inline void store(bf16* p, float x) {
  const uint32_t u = bits<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  *p = static_cast<bf16>(x != x ? 0x7fc0u : rounded);
}

// exp(x), relative error under 2e-7 for x in [-87.3, 88.3]; below it gives ~1e-38, never a denormal. NaN passes through:
// a comparison with NaN is false, so both clamps keep it, and the monitor must see it in the loss.
static inline float fast_exp(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.3f ? 88.3f : x;
  // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number and vectorises everywhere.
  const float magic = 12582912.0f;
  const float shifted = x * 1.44269504088896341f + magic;
  const float n = shifted - magic;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t power = (bits<uint32_t>(shifted) + 127u) << 23;
  return p * bits<float>(power);
}

// A 32-bit mix (lowbias32 by Chris Wellons, hash-prospector): enough for dropout, four multiplies cheaper than Philox.
static inline uint32_t mix32(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

static inline uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
