// Selective scan of Mamba-1, forward and backward, float32, for the CPU. Built and loaded by cpp.py; no torch headers.
//
//   h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        y_t = C_t . h_t + D u_t
//
// Arrays are dense: u, delta, y [B, L, E]; A [N, E] (transposed); Bm, Cm [B, L, N]; h0, last [B, N, E]; marks [B, K, N, E],
// the state before every CHUNK-th step, K = ceil(L / CHUNK). A piece of work is one sequence and GROUP channels, walked in
// vectors of W channels. Sums over channels or sequences are gathered per piece and added in one fixed order afterwards, so
// results depend neither on the number of threads nor on their timing. Backward runs each chunk forward again from its mark
// into a buffer that stays in cache, then walks it from the end.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int64_t W = 16, CHUNK = 16, GROUP = 128;
typedef float V __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));

struct Sizes { int64_t B, L, E, N, threads; };

inline V all(float x) { return V{} + x; }

inline V load(const float* p, int64_t count) {
  V v{};
  if (count == W) std::memcpy(&v, p, sizeof v); else std::memcpy(&v, p, count * sizeof(float));
  return v;
}

inline void store(float* p, V v, int64_t count) {
  if (count == W) std::memcpy(p, &v, sizeof v); else std::memcpy(p, &v, count * sizeof(float));
}

inline float total(V v) {
  float s = 0;
  for (int i = 0; i < W; ++i) s += v[i];
  return s;
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

// Runs work(piece) for every piece, a fixed contiguous share per thread. Returns 1 when memory or threads ran out.
template <class Work> int share(int64_t pieces, int64_t threads, Work work) {
  threads = std::max<int64_t>(1, std::min(threads, pieces));
  std::atomic<int> failed{0};
  auto run = [&](int64_t i) {
    try { work(pieces * i / threads, pieces * (i + 1) / threads); } catch (...) { failed = 1; }
  };
  std::vector<std::thread> others;
  try { for (int64_t i = 1; i < threads; ++i) others.emplace_back(run, i); } catch (...) { failed = 1; }
  run(0);
  for (auto& other : others) other.join();
  return failed;
}

int64_t groups(int64_t E) { return (E + GROUP - 1) / GROUP; }

// out[i] = sum over the parts, first to last.
void add(const float* parts, int64_t count, int64_t size, float* out) {
  std::fill(out, out + size, 0.f);
  for (int64_t p = 0; p < count; ++p) for (int64_t i = 0; i < size; ++i) out[i] += parts[p * size + i];
}

}  // namespace

extern "C" {

int64_t instar_scan_chunk() { return CHUNK; }

int instar_scan_forward(const float* u, const float* delta, const float* A, const float* Bm, const float* Cm, const float* D,
                        const float* h0, float* y, float* last, float* marks,
                        int64_t B, int64_t L, int64_t E, int64_t N, int64_t threads) {
  const int64_t G = groups(E), K = (L + CHUNK - 1) / CHUNK;
  return share(B * G, threads, [=](int64_t begin, int64_t end) {
    std::vector<V> rate(N), h(N);
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t b = piece / G, from = piece % G * GROUP, to = std::min(E, from + GROUP);
      for (int64_t e = from; e < to; e += W) {
        const int64_t lanes = std::min(W, to - e);
        for (int64_t n = 0; n < N; ++n) {
          rate[n] = load(A + n * E + e, lanes);
          h[n] = h0 ? load(h0 + (b * N + n) * E + e, lanes) : V{};
        }
        const V skip = D ? load(D + e, lanes) : V{};
        for (int64_t t = 0; t < L; ++t) {
          const int64_t row = b * L + t;
          if (marks && t % CHUNK == 0)
            for (int64_t n = 0; n < N; ++n) store(marks + ((b * K + t / CHUNK) * N + n) * E + e, h[n], lanes);
          const V d = load(delta + row * E + e, lanes), in = load(u + row * E + e, lanes), x = d * in;
          V sum = D ? skip * in : V{};
          for (int64_t n = 0; n < N; ++n) {
            h[n] = exponential(d * rate[n]) * h[n] + x * Bm[row * N + n];
            sum += h[n] * Cm[row * N + n];
          }
          store(y + row * E + e, sum, lanes);
        }
        for (int64_t n = 0; n < N; ++n) store(last + (b * N + n) * E + e, h[n], lanes);
      }
    }
  });
}

// dy and dlast may be null (zero), D with dD and dh0 as well. dh0 and dlast [B, N, E]; dA [N, E].
int instar_scan_backward(const float* u, const float* delta, const float* A, const float* Bm, const float* Cm, const float* D,
                         const float* marks, const float* dy, const float* dlast, float* du, float* ddelta, float* dA,
                         float* dB, float* dC, float* dD, float* dh0,
                         int64_t B, int64_t L, int64_t E, int64_t N, int64_t threads) {
  const int64_t G = groups(E), K = (L + CHUNK - 1) / CHUNK, T = GROUP / W;
  std::vector<float> partA(B * N * E), partD(D ? B * E : 0), partB(G * B * L * N), partC(G * B * L * N);
  float *pA = partA.data(), *pD = partD.data(), *pB = partB.data(), *pC = partC.data();
  const int failed = share(B * G, threads, [=](int64_t begin, int64_t end) {
    std::vector<V> decay(CHUNK * N), h((CHUNK + 1) * N), rate(N), sumB(CHUNK * N), sumC(CHUNK * N), g(T * N), gA(T * N), gD(T);
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t b = piece / G, group = piece % G, from = group * GROUP, to = std::min(E, from + GROUP);
      std::fill(gA.begin(), gA.end(), V{});
      std::fill(gD.begin(), gD.end(), V{});
      for (int64_t e = from; e < to; e += W)
        for (int64_t n = 0; n < N; ++n)
          g[(e - from) / W * N + n] = dlast ? load(dlast + (b * N + n) * E + e, std::min(W, to - e)) : V{};
      for (int64_t k = K - 1; k >= 0; --k) {
        const int64_t first = b * L + k * CHUNK, steps = std::min(CHUNK, L - k * CHUNK);
        std::fill(sumB.begin(), sumB.end(), V{});
        std::fill(sumC.begin(), sumC.end(), V{});
        for (int64_t e = from; e < to; e += W) {
          const int64_t lanes = std::min(W, to - e), tile = (e - from) / W;
          V *gt = &g[tile * N], *gAt = &gA[tile * N];
          for (int64_t n = 0; n < N; ++n) {
            rate[n] = load(A + n * E + e, lanes);
            h[n] = load(marks + ((b * K + k) * N + n) * E + e, lanes);
          }
          for (int64_t t = 0; t < steps; ++t) {
            const int64_t row = first + t;
            const V d = load(delta + row * E + e, lanes), x = d * load(u + row * E + e, lanes);
            for (int64_t n = 0; n < N; ++n) {
              const V a = decay[t * N + n] = exponential(d * rate[n]);
              h[(t + 1) * N + n] = a * h[t * N + n] + x * Bm[row * N + n];
            }
          }
          const V skip = D ? load(D + e, lanes) : V{};
          for (int64_t t = steps - 1; t >= 0; --t) {
            const int64_t row = first + t;
            const V d = load(delta + row * E + e, lanes), in = load(u + row * E + e, lanes), x = d * in;
            const V up = dy ? load(dy + row * E + e, lanes) : V{};
            V gx{}, gd{};
            for (int64_t n = 0; n < N; ++n) {
              V now = gt[n] + up * Cm[row * N + n];
              sumC[t * N + n] += up * h[(t + 1) * N + n];
              sumB[t * N + n] += now * x;
              gx += now * Bm[row * N + n];
              now *= decay[t * N + n];
              gt[n] = now;
              now *= h[t * N + n];
              gd += now * rate[n];
              gAt[n] += now * d;
            }
            store(du + row * E + e, D ? gx * d + up * skip : gx * d, lanes);
            store(ddelta + row * E + e, gd + gx * in, lanes);
            if (D) gD[tile] += up * in;
          }
        }
        for (int64_t i = 0; i < steps * N; ++i) {
          pB[group * B * L * N + first * N + i] = total(sumB[i]);
          pC[group * B * L * N + first * N + i] = total(sumC[i]);
        }
      }
      for (int64_t e = from; e < to; e += W) {
        const int64_t lanes = std::min(W, to - e), tile = (e - from) / W;
        for (int64_t n = 0; n < N; ++n) {
          store(pA + (b * N + n) * E + e, gA[tile * N + n], lanes);
          if (dh0) store(dh0 + (b * N + n) * E + e, g[tile * N + n], lanes);
        }
        if (D) store(pD + b * E + e, gD[tile], lanes);
      }
    }
  });
  add(pA, B, N * E, dA);
  if (D) add(pD, B, E, dD);
  add(pB, G, B * L * N, dB);
  add(pC, G, B * L * N, dC);
  return failed;
}

}  // extern "C"
