// gaussian_mixup on CUDA: one pass over memory. In the common case (dense channels-last images that
// consist of whole packets of 16 elements at aligned addresses) each thread computes a few packets:
// one 128-bit load per uint8 image, two 128-bit stores for bf16, and four Philox blocks of noise.
// Other layouts are processed four elements at a time.
#pragma once

#include "../../common/device_types.h"
#include "../../common/normal.h"
#include "../../common/philox.h"
#include "../gaussian_mixup_args.h"
#include "grid.cuh"

#include <type_traits>

namespace sprout_fast {

constexpr int kMixupElements = 16;  // per packet
constexpr int kMixupPackets = 8;    // per thread, to amortize its setup
constexpr int kMixupThreads = 64;

// Adds `factor` times two independent standard normals, like normal_pair but with the special
// function unit, for 16-bit outputs. By the documented errors of the intrinsics they are within
// 1e-5 of the exact ones (tests/simt/test_simt.py applies these errors), a hundredth of fp16's
// spacing at 1. With polynomials, issuing the instructions of a packet would take longer than
// moving its bytes.
__device__ __forceinline__ void add_fast_normal_pair(uint32_t radius_word, uint32_t angle_word,
                                                     float factor, float* first, float* second) {
  // U = x, or 1 + x for negative x: a signed word keeps its precision at both ends.
  const float x = static_cast<float>(static_cast<int32_t>(radius_word)) * 2.3283064365386963e-10f +
                  1.1641532182693481e-10f;
  const float by_unit = __log2f(x < 0.0f ? 1.0f + x : x) * -1.3862944f;
  // Near 1 the logarithm is small but the unit's error is not: use a series for -2 log(1 + x).
  const float by_series = x * (x * (1.0f - x * 0.66666667f) - 2.0f);
  const float square = radius_word > 0xFC000000u ? by_series : by_unit;
  const float radius = factor * (square * rsqrtf(square));
  float sine, cosine;
  __sincosf(static_cast<float>(static_cast<int32_t>(angle_word)) * 1.4629180792671596e-9f, &sine,
            &cosine);
  *first += radius * cosine;
  *second += radius * sine;
}

// Adds `factor` times the standard normals of the four elements from `group`, a multiple of 4.
template <bool kFast, typename T>
__device__ __forceinline__ void add_group_normals(const PhiloxCall& call, int64_t group, T factor,
                                                  T* sum) {
  const Philox4 w = call.words(Stream::kImageNoise, group, 0);
  if constexpr (kFast) {
    add_fast_normal_pair(w.w0, w.w1, factor, &sum[0], &sum[1]);
    add_fast_normal_pair(w.w2, w.w3, factor, &sum[2], &sum[3]);
  } else {
    T n[4];
    normal_pair(w.w0, w.w1, &n[0], &n[1]);
    normal_pair(w.w2, w.w3, &n[2], &n[3]);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[j] += factor * n[j];
  }
}

// The same for four elements from any index.
template <bool kFast, typename T>
__device__ __forceinline__ void add_normals(const PhiloxCall& call, int64_t element, T factor,
                                            T (&sum)[4]) {
  const int skip = static_cast<int>(element & 3);
  T n[8] = {};
  add_group_normals<kFast>(call, element - skip, factor, n);
  if (skip != 0) add_group_normals<kFast>(call, element - skip + 4, factor, n + 4);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    // Compare with every constant index, so that `n` stays in registers.
#pragma unroll
    for (int s = 0; s < 4; ++s) sum[j] += s == skip ? n[j + s] : T(0);
  }
}

// The terms of one output image.
template <typename In, typename T>
struct Mixture {
  int64_t partner;
  T own_weight, partner_weight;  // weights of the stored pixels
  T own_noise, partner_noise;    // weights of the noise of the two images
  int draws;                     // 0, 1, or 2 if the partner's noise is drawn as well
  bool mixes;

  __device__ __forceinline__ Mixture(const GaussianMixupArgs& args, int64_t image)
      : partner(image) {
    T lam = T(1);
    if (args.partner != nullptr) {
      partner = args.partner[image];
      lam = static_cast<T>(args.lam[image * args.lam_stride]);
    }
    constexpr T kPixelScale = std::is_same_v<In, uint8_t> ? T(1.0 / 255.0) : T(1);
    const T rest = T(1) - lam;
    // An out-of-range partner or lam makes the image NaN, and no partner is read.
    const bool valid = static_cast<uint64_t>(partner) < static_cast<uint64_t>(args.batch) &&
                       lam >= T(0) && lam <= T(1);
    mixes = valid && partner != image && rest != T(0);
    own_weight = !valid ? device_nan<T>() : mixes ? lam * kPixelScale : kPixelScale;
    partner_weight = rest * kPixelScale;
    // One draw per output ("marginal"), or one for each of the two images ("paired").
    const bool paired = mixes && args.paired;
    own_noise = !mixes ? T(1) : paired ? lam : std::sqrt(lam * lam + rest * rest);
    partner_noise = rest;
    draws = !args.noise ? 0 : paired ? 2 : 1;
  }
};

// out = scale * pixel + noise * normal + shift in a channel.
template <typename T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) ChannelMap {
  T scale, noise, shift;
};

template <typename T, typename In>
__device__ __forceinline__ T pixel_of(const Packet<In, kMixupElements>& packet, int j) {
  if constexpr (std::is_same_v<In, uint8_t>) {
    // By intrinsic: nvcc itself would emit a shift, a mask and a slow conversion.
    const uint32_t word = reinterpret_cast<const uint32_t*>(packet.value)[j / 4];
    return static_cast<T>(__byte_perm(word, 0, 0x4440 + j % 4));
  } else {
    return load_as<T>(packet.value[j]);
  }
}

// Computes elements [first, first + 16) of an image; `map` begins with the channel of the first
// one.
template <typename In, typename Out, typename T>
__device__ __forceinline__ void mix_packet(const GaussianMixupArgs& args, const PhiloxCall& call,
                                           const Mixture<In, T>& mixture, const ChannelMap<T>* map,
                                           int64_t image, uint32_t first, int64_t elements) {
  const In* images = static_cast<const In*>(args.images) + first;
  Packet<In, kMixupElements> own, other;
  own.load(images + image * args.stride[0]);
  if (mixture.mixes) other.load(images + mixture.partner * args.stride[0]);
  T noise[kMixupElements] = {};
#pragma unroll 1
  for (int draw = 0; draw < mixture.draws; ++draw) {
    const int64_t source = draw == 0 ? image : mixture.partner;
    const T factor = draw == 0 ? mixture.own_noise : mixture.partner_noise;
#pragma unroll
    for (int j = 0; j < kMixupElements; j += 4) {
      add_group_normals<sizeof(Out) == 2>(call, call.first_element + source * elements + first + j,
                                          factor, noise + j);
    }
  }
  Packet<Out, kMixupElements> packet;
#pragma unroll
  for (int j = 0; j < kMixupElements; ++j) {
    T pixel = mixture.own_weight * pixel_of<T>(own, j);
    if (mixture.mixes) pixel += mixture.partner_weight * pixel_of<T>(other, j);
    const ChannelMap<T> channel = map[j];
    const T value = pixel * channel.scale + (noise[j] * channel.noise + channel.shift);
    store_as(value, &packet.value[j]);
  }
  packet.store_global(static_cast<Out*>(args.out) + image * elements + first);
}

// Computes those of elements [first, first + 4) that are in an image of any layout; `map` begins
// with channel 0.
template <typename In, typename Out, typename T>
__device__ __forceinline__ void mix_four(const GaussianMixupArgs& args, const PhiloxCall& call,
                                         const Mixture<In, T>& mixture, const ChannelMap<T>* map,
                                         int64_t image, int64_t first, int64_t elements) {
  T noise[4] = {};
#pragma unroll 1
  for (int draw = 0; draw < mixture.draws; ++draw) {
    const int64_t source = draw == 0 ? image : mixture.partner;
    add_normals<sizeof(Out) == 2>(call, call.first_element + source * elements + first,
                                  draw == 0 ? mixture.own_noise : mixture.partner_noise, noise);
  }
  const In* own = static_cast<const In*>(args.images) + image * args.stride[0];
  // Do not even compute the address of an out-of-range partner.
  const In* other = own + (mixture.mixes ? mixture.partner - image : 0) * args.stride[0];
  Out* out = static_cast<Out*>(args.out) + image * elements;
  int64_t h = first / args.channels / args.width;
  int64_t w = first / args.channels - h * args.width;
  int64_t c = first % args.channels;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (first + j >= elements) return;
    const int64_t place = c * args.stride[1] + h * args.stride[2] + w * args.stride[3];
    T pixel = mixture.own_weight * load_as<T>(own[place]);
    if (mixture.mixes) pixel += mixture.partner_weight * load_as<T>(other[place]);
    const ChannelMap<T> channel = map[c];
    const T value = pixel * channel.scale + (noise[j] * channel.noise + channel.shift);
    store_as(value, out + first + j);
    if (++c == args.channels) {
      c = 0;
      if (++w == args.width) {
        w = 0;
        ++h;
      }
    }
  }
}

// Grid: x over the packets of an image, y over images.
inline dim3 gaussian_mixup_grid(const GaussianMixupArgs& args) {
  const int64_t elements = args.channels * args.height * args.width;
  return grid_of(ceil_div(elements, int64_t{kMixupThreads} * kMixupPackets * kMixupElements),
                 args.batch);
}
// Whether images consist of whole packets at aligned addresses. The bound lets 32 bits hold an
// index into an image.
template <typename In>
inline bool gaussian_mixup_is_packed(const GaussianMixupArgs& args) {
  const int64_t C = args.channels, elements = C * args.height * args.width;
  const bool dense = args.stride[1] == 1 && args.stride[3] == C && args.stride[2] == args.width * C;
  const bool aligned = is_aligned(args.images) && is_aligned(args.out) &&
                       args.stride[0] * static_cast<int64_t>(sizeof(In)) % 16 == 0;
  return dense && aligned && elements % kMixupElements == 0 && elements < int64_t{1} << 32;
}
template <typename In, typename Out, typename T>
__global__ void __launch_bounds__(kMixupThreads)
    gaussian_mixup_kernel(const __grid_constant__ GaussianMixupArgs args, bool packed) {
  // The channels repeat, so that those of a packet are consecutive.
  __shared__ ChannelMap<T> map[kMaxChannels + kMixupElements - 1];
  const int C = static_cast<int>(args.channels);
  if (static_cast<int>(threadIdx.x) < C) {
    const T scale = static_cast<T>(args.inv_std[threadIdx.x]);
    const ChannelMap<T> channel{scale, static_cast<T>(args.sigma[threadIdx.x]) * scale,
                                -static_cast<T>(args.mean[threadIdx.x]) * scale};
#pragma unroll 1
    for (int i = threadIdx.x; i < C + kMixupElements - 1; i += C) map[i] = channel;
  }
  __syncthreads();

  const int64_t elements = args.channels * args.height * args.width;
  const PhiloxCall call(args.rng_state, elements);
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t image = blockIdx.y; image < args.batch; image += gridDim.y) {
    const Mixture<In, T> mixture(args, image);
    if (packed) {
#pragma unroll 1
      for (int64_t packet = thread; packet < elements / kMixupElements; packet += threads) {
        const uint32_t first = static_cast<uint32_t>(packet) * kMixupElements;
        mix_packet<In, Out>(args, call, mixture, map + first % static_cast<uint32_t>(C), image,
                            first, elements);
      }
    } else {
      for (int64_t first = 4 * thread; first < elements; first += 4 * threads) {
        mix_four<In, Out>(args, call, mixture, map, image, first, elements);
      }
    }
  }
}

constexpr int kMixupBackwardElements = 8;  // per thread: 128 bits of a 16-bit type
constexpr int kMixupBackwardThreads = 256;

// Grid: x over elements of an image, y over images. Each block finds the outputs that its image is
// mixed into by scanning `partner` tile by tile, in the order of the batch, so that no atomics are
// needed.
inline dim3 gaussian_mixup_backward_grid(const GaussianMixupBackwardArgs& args) {
  return grid_of(ceil_div(args.channels * args.pixels,
                          int64_t{kMixupBackwardThreads} * kMixupBackwardElements),
                 args.batch);
}
template <typename Grad, typename Image, typename T>
__global__ void __launch_bounds__(kMixupBackwardThreads)
    gaussian_mixup_backward_kernel(const __grid_constant__ GaussianMixupBackwardArgs args) {
  constexpr int N = kMixupBackwardElements;
  __shared__ int partner_matches[kMixupBackwardThreads];
  const int64_t elements = args.channels * args.pixels;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  const bool packed = elements % N == 0 && is_aligned(args.grad) && is_aligned(args.grad_images);
  for (int64_t image = blockIdx.y; image < args.batch; image += gridDim.y) {
    T sum[N] = {};
    const auto add = [&](int64_t i, T weight) {
      const Grad* grad = static_cast<const Grad*>(args.grad) + i * elements + first;
      if (packed && first < elements) {
        Packet<Grad, N> packet;
        packet.load(grad);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += weight * load_as<T>(packet.value[j]);
      } else {
#pragma unroll
        for (int j = 0; j < N; ++j) {
          if (first + j < elements) sum[j] += weight * load_as<T>(grad[j]);
        }
      }
    };
    const auto lam_of = [&](int64_t i) {
      if (args.partner == nullptr) return T(1);
      const T lam = static_cast<T>(args.lam[i * args.lam_stride]);
      const int64_t partner = args.partner[i];
      const bool valid = lam >= T(0) && lam <= T(1) && partner >= 0 && partner < args.batch;
      return valid ? lam : device_nan<T>();
    };
    add(image, lam_of(image));
    for (int64_t tile = 0; args.partner != nullptr && tile < args.batch; tile += blockDim.x) {
      const int64_t i = tile + threadIdx.x;
      const int match = i < args.batch && args.partner[i] == image;
      partner_matches[threadIdx.x] = match;
      if (__syncthreads_or(match)) {
        for (int j = 0; j < static_cast<int>(blockDim.x); ++j) {
          if (partner_matches[j]) add(tile + j, T(1) - lam_of(tile + j));
        }
      }
      __syncthreads();  // before the matches of the next tile are written
    }
    Image* out = static_cast<Image*>(args.grad_images) + image * elements + first;
    Packet<Image, N> packet;
    int c = static_cast<int>(first % args.channels);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      store_as(sum[j] * static_cast<T>(args.inv_std[c]), &packet.value[j]);
      c = c + 1 == args.channels ? 0 : c + 1;
    }
    if (packed && first < elements) {
      packet.store_global(out);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (first + j < elements) out[j] = packet.value[j];
      }
    }
  }
}

}  // namespace sprout_fast
