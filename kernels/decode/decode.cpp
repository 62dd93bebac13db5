// What a decode step does between its matrix products, for the CPU. Built and loaded by cpp.py; no torch headers.
//
// Numbers are float32 or bfloat16; all sums are float32. Where the model would round to bfloat16 between two operations,
// so does this. Shapes: R rows, A query heads, H key-value heads, D head width (a multiple of 16), C columns per slot.
// Work is shared by rows; a row's result depends on that row alone, so neither on threads nor on neighbours.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t W = 16;
typedef float V __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t H16 __attribute__((vector_size(32)));

inline V all(float x) { return V{} + x; }

inline V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline V load(const uint16_t* p) {
  H16 h;
  std::memcpy(&h, p, sizeof h);
  const U u = __builtin_convertvector(h, U) << 16;
  V v;
  std::memcpy(&v, &u, sizeof v);
  return v;
}
inline void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }
inline void store(uint16_t* p, V v) {
#ifdef __AVX512BF16__
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &h, sizeof h);
#else
  U u;
  std::memcpy(&u, &v, sizeof u);
  const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const U broken = (U)(v != v);                               // all ones for NaN, which must stay NaN
  const H16 h = __builtin_convertvector((rounded & ~broken) | (broken & 0x7fc0u), H16);
  std::memcpy(p, &h, sizeof h);
#endif
}
// The value that a store and a load of type T would leave.
inline V rounded(V v, const float*) { return v; }
inline V rounded(V v, const uint16_t*) {
#ifdef __AVX512BF16__
  return (V)_mm512_cvtpbh_ps(_mm512_cvtneps_pbh((__m512)v));
#else
  uint16_t kept[W];
  store(kept, v);
  return load(kept);
#endif
}

inline float total(V v) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)v);
#else
  float s[W];
  store(s, v);
  for (int64_t half = W / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) s[i] += s[i + half];
  return s[0];
#endif
}

// e^x to 2 units in the last place: x = k ln2 + r, a polynomial in r (coefficients of Cephes' expf), k into the exponent.
// Below 2^-126 the result is 0, above 2^127.5 infinity; NaN stays NaN.
inline V exponential(V x) {
  x = x < all(-88.f) ? all(-88.f) : x;
  x = x > all(89.f) ? all(89.f) : x;
  const V shift = all(12582912.f);
  V k = x * 1.44269504f + shift;
  U bits;
  std::memcpy(&bits, &k, sizeof bits);
  k -= shift;
  V r = x - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  V p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  bits = (bits + 127u) << 23;
  V scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

// Runs work(begin, end) over the rows, a contiguous share per thread. Returns 1 when memory or threads ran out.
template <class Work> int share(int64_t rows, int64_t threads, Work work) {
  threads = threads < 1 ? 1 : threads > rows ? (rows ? rows : 1) : threads;
  std::atomic<int> failed{0};
  auto run = [&](int64_t i) {
    try { work(rows * i / threads, rows * (i + 1) / threads); } catch (...) { failed = 1; }
  };
  std::vector<std::thread> others;
  try { for (int64_t i = 1; i < threads; ++i) others.emplace_back(run, i); } catch (...) { failed = 1; }
  run(0);
  for (auto& t : others) t.join();
  return failed;
}

// Turns one head: the halves of D are the two coordinates. `from` and `to` may be of different types.
template <class T, class To> inline void turn(const T* from, const T* cos, const T* sin, To* to, int64_t D) {
  const int64_t half = D / 2;
  for (int64_t d = 0; d < half; d += W) {
    const V a = load(from + d), b = load(from + half + d);
    const V x = rounded(a * load(cos + d), from) - rounded(b * load(sin + d), from);
    const V y = rounded(b * load(cos + half + d), from) + rounded(a * load(sin + half + d), from);
    store(to + d, rounded(x, from));
    store(to + half + d, rounded(y, from));
  }
}

// Scores of G queries against `used` keys, softmax, and the mixture of values: one row, one key-value head. N = D / 16.
template <class T, int64_t N, int64_t G>
inline void mix(const float* q, const T* keys, const T* values, int64_t used, float* scores, int64_t stride, T* out) {
  constexpr int64_t D = N * W;
  V query[G][N];
  for (int64_t g = 0; g < G; ++g)
    for (int64_t n = 0; n < N; ++n) query[g][n] = load(q + g * D + n * W);
  for (int64_t c = 0; c < used; ++c) {
    V sum[G] = {};
    for (int64_t n = 0; n < N; ++n) {
      const V key = load(keys + c * D + n * W);
      for (int64_t g = 0; g < G; ++g) sum[g] += query[g][n] * key;
    }
    for (int64_t g = 0; g < G; ++g) scores[g * stride + c] = total(sum[g]);
  }
  float scale[G];
  for (int64_t g = 0; g < G; ++g) {
    float* s = scores + g * stride;
    for (int64_t c = used; c % W; ++c) s[c] = -INFINITY;
    V top = load(s);
    for (int64_t c = W; c < used; c += W) {
      const V v = load(s + c);
      top = v > top ? v : top;
    }
    float most = top[0];
    for (int64_t i = 1; i < W; ++i) most = top[i] > most ? top[i] : most;
    V sum{};
    for (int64_t c = 0; c < used; c += W) {
      const V e = exponential(load(s + c) - most);  // the padding is -infinity and becomes 0
      store(s + c, e);
      sum += e;
    }
    scale[g] = 1.f / total(sum);
  }
  V mixed[G][N] = {};
  for (int64_t c = 0; c < used; ++c)
    for (int64_t n = 0; n < N; ++n) {
      const V value = load(values + c * D + n * W);
      for (int64_t g = 0; g < G; ++g) mixed[g][n] += scores[g * stride + c] * value;
    }
  for (int64_t g = 0; g < G; ++g)
    for (int64_t n = 0; n < N; ++n) store(out + g * D + n * W, mixed[g][n] * scale[g]);
}

struct Shape { int64_t R, A, H, D, C, threads; };

template <class T, int64_t N>
int attend(const T* qkv, const T* cos, const T* sin, const int64_t* position, T* keys, T* values, T* out, Shape z) {
  const int64_t D = N * W, G = z.A / z.H, wide = z.A + 2 * z.H;
  return share(z.R, z.threads, [=](int64_t begin, int64_t end) {
    const float norm = 1.f / std::sqrt(static_cast<float>(D));
    const int64_t stride = (z.C + W) / W * W;
    std::vector<float> q(G * D), scores(4 * stride);
    for (int64_t r = begin; r < end; ++r) {
      const T *row = qkv + r * wide * D, *c = cos + r * D, *s = sin + r * D;
      const int64_t used = position[r] + 1;
      for (int64_t h = 0; h < z.H; ++h) {
        T *k = keys + (r * z.H + h) * z.C * D, *v = values + (r * z.H + h) * z.C * D;
        turn(row + (z.A + h) * D, c, s, k + position[r] * D, D);
        std::memcpy(v + position[r] * D, row + (z.A + z.H + h) * D, D * sizeof(T));
        for (int64_t g = 0; g < G; ++g) {
          // Turned in T, as the model does, then scaled in float32.
          T turned[N * W];
          turn(row + (h * G + g) * D, c, s, turned, D);
          for (int64_t n = 0; n < N; ++n) store(&q[g * D + n * W], load(turned + n * W) * norm);
        }
        int64_t g = 0;
        T* o = out + (r * z.A + h * G) * D;
        for (; g + 4 <= G; g += 4) mix<T, N, 4>(&q[g * D], k, v, used, scores.data(), stride, o + g * D);
        for (; g + 3 <= G; g += 3) mix<T, N, 3>(&q[g * D], k, v, used, scores.data(), stride, o + g * D);
        for (; g + 2 <= G; g += 2) mix<T, N, 2>(&q[g * D], k, v, used, scores.data(), stride, o + g * D);
        for (; g < G; ++g) mix<T, N, 1>(&q[g * D], k, v, used, scores.data(), stride, o + g * D);
      }
    }
  });
}

template <class T>
int attend(const T* qkv, const T* cos, const T* sin, const int64_t* position, T* keys, T* values, T* out, Shape z) {
  switch (z.D / W) {
    case 2: return attend<T, 2>(qkv, cos, sin, position, keys, values, out, z);
    case 4: return attend<T, 4>(qkv, cos, sin, position, keys, values, out, z);
    case 6: return attend<T, 6>(qkv, cos, sin, position, keys, values, out, z);
    case 8: return attend<T, 8>(qkv, cos, sin, position, keys, values, out, z);
  }
  return 2;
}

template <class T>
int add_norm(T* x, const T* delta, const T* weight, float eps, T* out, int64_t R, int64_t E, int64_t threads) {
  return share(R, threads, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T *row = x + r * E, *to = out + r * E;
      V sum{};
      for (int64_t e = 0; e < E; e += W) {
        V v = load(row + e);
        if (delta) {
          v = rounded(v + load(delta + r * E + e), row);
          store(row + e, v);
        }
        sum += v * v;
      }
      const float scale = 1.f / std::sqrt(total(sum) / static_cast<float>(E) + eps);
      for (int64_t e = 0; e < E; e += W) store(to + e, rounded(load(row + e) * scale, row) * load(weight + e));
    }
  });
}

template <class T> int silu_mul(const T* gate_up, T* out, int64_t R, int64_t I, int64_t threads) {
  return share(R, threads, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t i = 0; i < I; i += W) {
        const V gate = load(gate_up + 2 * r * I + i), up = load(gate_up + (2 * r + 1) * I + i);
        store(out + r * I + i, rounded(gate / (1.f + exponential(-gate)), out) * up);
      }
  });
}

// Draws from softmax(logits * heat) by inverse CDF, or takes the first largest (uniform null). No copy of the logits: one
// pass for the largest, one for sums of blocks, and the block that holds the quantile once more. A row that is not finite
// gives token 0 with a log-probability that is not finite.
template <class T>
int draw(const T* logits, const double* uniform, float heat, int64_t* token, float* logprob, int64_t R, int64_t size,
         int64_t threads) {
  constexpr int64_t BLOCK = 256;
  return share(R, threads, [=](int64_t begin, int64_t end) {
    const int64_t blocks = (size + BLOCK - 1) / BLOCK;
    std::vector<double> sums(blocks);
    float weight[BLOCK];
    for (int64_t r = begin; r < end; ++r) {
      const T* row = logits + r * size;
      const auto at = [&](int64_t i) {  // 16 logits from i on; -infinity behind the end
        if (i + W <= size) return load(row + i);
        T part[W];
        V v = all(-INFINITY);
        std::memcpy(part, row + i, (size - i) * sizeof(T));
        for (int64_t j = 0; j < size - i; ++j) {
          T one[W] = {part[j]};
          v[j] = load(one)[0];
        }
        return v;
      };
      V top = at(0);
      for (int64_t i = W; i < size; i += W) {
        const V v = at(i);
        top = v > top ? v : top;
      }
      float most = top[0];
      for (int64_t i = 1; i < W; ++i) most = top[i] > most ? top[i] : most;
      double sum = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        V part{};
        for (int64_t i = b * BLOCK; i < size && i < (b + 1) * BLOCK; i += W) part += exponential((at(i) - most) * heat);
        sum += sums[b] = total(part);
      }
      if (!std::isfinite(most) || !std::isfinite(sum)) {
        token[r] = 0;
        logprob[r] = NAN;
        continue;
      }
      const double target = uniform ? std::min(uniform[r] * sum, std::nextafter(sum, 0.)) : 0;
      int64_t b = 0, last = 0, found = -1;
      double below = 0;
      if (uniform) {
        for (; b < blocks && below + sums[b] <= target; ++b) {
          below += sums[b];
          if (sums[b] > 0) last = b;
        }
        if (b == blocks) b = last, below = sum;  // sums of parts may round below their total
      }
      for (; b < blocks && found < 0; ++b) {
        const int64_t first = b * BLOCK, count = std::min(BLOCK, size - first);
        for (int64_t i = 0; i < count; i += W) {
          const V v = at(first + i);
          store(weight + i, uniform ? exponential((v - most) * heat) : v);
        }
        for (int64_t i = 0; i < count && found < 0; ++i) {
          if (uniform ? (below += weight[i]) > target && weight[i] > 0 : weight[i] == most) found = first + i;
        }
        if (uniform && found < 0)
          for (int64_t i = 0; i < count; ++i)
            if (weight[i] > 0) found = first + i;
      }
      T one[W] = {row[found]};
      token[r] = found;
      logprob[r] = static_cast<float>((load(one)[0] - most) * heat - std::log(sum));
    }
  });
}

}  // namespace

#define INSTAR_DECODE(SUFFIX, T)                                                                                          \
  extern "C" int instar_attend_##SUFFIX(const T* qkv, const T* cos, const T* sin, const int64_t* position, T* keys,        \
                                        T* values, T* out, int64_t R, int64_t A, int64_t H, int64_t D, int64_t C,          \
                                        int64_t threads) {                                                                 \
    return attend<T>(qkv, cos, sin, position, keys, values, out, Shape{R, A, H, D, C, threads});                           \
  }                                                                                                                        \
  extern "C" int instar_add_norm_##SUFFIX(T* x, const T* delta, const T* weight, float eps, T* out, int64_t R, int64_t E,  \
                                          int64_t threads) {                                                               \
    return add_norm<T>(x, delta, weight, eps, out, R, E, threads);                                                         \
  }                                                                                                                        \
  extern "C" int instar_silu_mul_##SUFFIX(const T* gate_up, T* out, int64_t R, int64_t I, int64_t threads) {               \
    return silu_mul<T>(gate_up, out, R, I, threads);                                                                       \
  }                                                                                                                        \
  extern "C" int instar_draw_##SUFFIX(const T* logits, const double* uniform, float heat, int64_t* token, float* logprob,  \
                                      int64_t R, int64_t size, int64_t threads) {                                          \
    return draw<T>(logits, uniform, heat, token, logprob, R, size, threads);                                               \
  }

INSTAR_DECODE(float32, float)
INSTAR_DECODE(bfloat16, uint16_t)
