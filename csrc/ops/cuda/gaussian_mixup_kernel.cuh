// gaussian_mixup on CUDA, in one pass over memory. One of three kernels is launched:
//   gaussian_mixup_kernel          dense channels-last images that consist of whole chunks at
//   aligned
//                                  addresses, any number of channels
//   gaussian_mixup_pixels_kernel   three channels in any other layout: planes, odd sides, views
//   gaussian_mixup_strided_kernel  the rest, four elements at a time
// Each request of a warp fills whole 32-byte sectors in the first two.
#pragma once

#include "../../common/device_types.h"
#include "../../common/normal.h"
#include "../../common/philox.h"
#include "../gaussian_mixup_args.h"
#include "dispatch.cuh"
#include "grid.cuh"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace sprout_fast {

constexpr int kMixupThreads = 64;
constexpr int kMixupElements = 16;  // per thread and iteration
// Of a thread if there are enough images, to amortize its setup.
constexpr int kMixupIterations = 8;
// Blocks per multiprocessor below which threads iterate less: about as many as are resident.
constexpr int kMixupBlocks = 16;

// What a radius and an angle word are multiplied by for normals times `factor`, which is not
// negative.
struct FastNormals {
  float of_log, square, linear, constant;

  __device__ __forceinline__ explicit FastNormals(float factor) {
    const float scale = factor * factor;
    of_log = scale * -1.3862944f;
    square = scale * 0x1p-64f;
    linear = scale * (0x1p-64f - 0x1p-31f);
    constant = scale * (0x1p-66f - 0x1p-32f);
  }

  // Adds two independent normals, like normal_pair but with the special function unit, for 16-bit
  // outputs. By the documented errors of the intrinsics they are within 1e-5 of the exact ones
  // (tests/simt/test_simt.py applies these errors), a hundredth of fp16's spacing at 1. With
  // polynomials, issuing the instructions of a packet would take longer than moving its bytes.
  __device__ __forceinline__ void add(uint32_t radius_word, uint32_t angle_word, float* first,
                                      float* second) const {
    const float u = static_cast<float>(radius_word) * 0x1p-32f + 0x1p-33f;
    const float by_unit = __log2f(u) * of_log;
    // Near U = 1 the logarithm is small but the unit's error is not: use the series x^2 - 2x of
    // -2 log(1 + x). The signed word is x 2^32 - 1/2, with all its precision.
    const float x = static_cast<float>(static_cast<int32_t>(radius_word));
    const float by_series = x * (x * square + linear) + constant;
    const float radius = approximate_sqrt(radius_word > 0xFF000000u ? by_series : by_unit);
    // The upper bits as a float in [1, 2), which costs no conversion (a slow instruction before
    // sm_90), become an angle in [-pi, pi). It is half a turn away, so both signs are reversed.
    float sine, cosine;
    const float turns = __uint_as_float(__funnelshift_r(angle_word, 0x7Fu, 9));
    __sincosf(turns * 6.2831855f - 9.424778f, &sine, &cosine);
    *first -= radius * cosine;
    *second -= radius * sine;
  }
};

// Adds `factor` times the standard normals of the four elements from `group`, a multiple of 4.
template <bool kFast, typename T>
__device__ __forceinline__ void add_group_normals(const PhiloxCall& call, int64_t group, T factor,
                                                  T* sum) {
  const Philox4 w = call.words(Stream::kImageNoise, group, 0);
  if constexpr (kFast) {
    const FastNormals normals(factor);
    normals.add(w.w0, w.w1, &sum[0], &sum[1]);
    normals.add(w.w2, w.w3, &sum[2], &sum[3]);
  } else if constexpr (std::is_same_v<T, float>) {
    // normal_pair, but for the root: one instruction instead of ten, and an ulp.
    const auto add = [factor](uint32_t radius_word, uint32_t angle_word, float* sums) {
      float sine, cosine;
      sincos_turns(angle_word, &sine, &cosine);
      const float radius = factor * approximate_sqrt(minus_two_log_uniform<float>(radius_word));
      sums[0] += radius * cosine;
      sums[1] += radius * sine;
    };
    add(w.w0, w.w1, sum);
    add(w.w2, w.w3, sum + 2);
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

// A byte in the mantissa of a float is 2^23 + byte: a conversion, which is slow before sm_90,
// becomes a subtraction.
constexpr float kByteBias = 0x1p23f;

// The terms of one output image.
template <typename In, typename T>
struct Mixture {
  int64_t partner;
  T own_weight, partner_weight;  // weights of the stored pixels
  T own_bias;                    // -own_weight 2^23
  uint32_t bias_bits;            // of kByteBias
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
    if (!mixes) partner = image;
    own_weight = !valid ? device_nan<T>() : mixes ? lam * kPixelScale : kPixelScale;
    own_bias = own_weight * T(-kByteBias);
    // Not known at compile time, so that it is in a register: of a permutation's two constants,
    // nvcc would otherwise copy the other one to a register before each.
    bias_bits = args.channels != 0 ? 0x4B000000u : 0u;
    partner_weight = mixes ? rest * kPixelScale : T(0);
    // One draw per output ("marginal"), or one for each of the two images ("paired").
    const bool paired = mixes && args.paired;
    own_noise = !mixes ? T(1) : paired ? lam : std::sqrt(lam * lam + rest * rest);
    partner_noise = rest;
    draws = !args.noise ? 0 : paired ? 2 : 1;
  }

  // The weighted sum of element `j` of two packets. The partner's must be 0 if the image is not
  // mixed.
  template <int N>
  __device__ __forceinline__ T mix(const Packet<In, N>& own, const Packet<In, N>& other,
                                   int j) const {
    if constexpr (std::is_same_v<In, uint8_t> && std::is_same_v<T, float>) {
      const auto biased = [&](const Packet<In, N>& packet) {
        const uint32_t word = reinterpret_cast<const uint32_t*>(packet.value)[j / 4];
        return __uint_as_float(__byte_perm(word, bias_bits, 0x7440 + j % 4));
      };
      // own_weight (2^23 + byte) - own_weight 2^23, rounded once.
      const float pixel = std::fma(own_weight, biased(own), own_bias);
      return partner_weight * (biased(other) - kByteBias) + pixel;
    } else {
      return partner_weight * load_as<T>(other.value[j]) + own_weight * load_as<T>(own.value[j]);
    }
  }
};

// out = scale * pixel + noise * normal + shift in a channel.
template <typename T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) ChannelMap {
  T scale, noise, shift;

  __device__ __forceinline__ T operator()(T pixel, T normal) const {
    return pixel * scale + (normal * noise + shift);
  }
};
template <typename T>
__device__ __forceinline__ ChannelMap<T> channel_map(const GaussianMixupArgs& args, int channel) {
  const T scale = static_cast<T>(args.inv_std[channel]);
  return {scale, static_cast<T>(args.sigma[channel]) * scale,
          -static_cast<T>(args.mean[channel]) * scale};
}

// Elements that a thread loads and stores at once, at least a Philox block.
template <typename In, typename Out>
constexpr int kMixupChunk = std::max(4, kPacketElements<In, Out>);

__device__ __forceinline__ int channel_after(int channel, int step, int channels) {
  channel += step;
  return channel < channels ? channel : channel - channels;
}

// Computes the chunks of a thread in a tile of 32 x kMixupElements elements of an image, the first
// of which is at `first`, a chunk in the image, with channel `channel`.
template <typename In, typename Out, typename T>
__device__ __forceinline__ void mix_chunks(const GaussianMixupArgs& args, const PhiloxCall& call,
                                           const Mixture<In, T>& mixture, const ChannelMap<T>* map,
                                           int64_t image, uint32_t first, uint32_t elements,
                                           int channel, int channel_step) {
  constexpr int N = kMixupChunk<In, Out>, kChunks = kMixupElements / N, kStride = 32 * N;
  const In* images = static_cast<const In*>(args.images) + first;
  const In* own_image = images + image * args.stride[0];
  const In* other_image = images + mixture.partner * args.stride[0];
  Packet<In, N> own[kChunks] = {}, other[kChunks] = {};
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    if (k == 0 || first + k * kStride < elements) own[k].load(own_image + k * kStride);
  }
  if (mixture.mixes) {
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      if (k == 0 || first + k * kStride < elements) other[k].load(other_image + k * kStride);
    }
  }
  T noise[kMixupElements] = {};
#pragma unroll 1
  for (int draw = 0; draw < mixture.draws; ++draw) {
    const int64_t source = draw == 0 ? image : mixture.partner;
    const T factor = draw == 0 ? mixture.own_noise : mixture.partner_noise;
#pragma unroll
    for (int j = 0; j < kMixupElements; j += 4) {
      add_group_normals<sizeof(Out) == 2>(
          call, call.first_element + source * elements + first + j / N * kStride + j % N, factor,
          noise + j);
    }
  }
  Out* out = static_cast<Out*>(args.out) + image * elements + first;
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    Packet<Out, N> packet;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      store_as(map[channel + j](mixture.mix(own[k], other[k], j), noise[k * N + j]),
               &packet.value[j]);
    }
    if (k == 0 || first + k * kStride < elements) packet.store_global(out + k * kStride);
    channel = channel_after(channel, channel_step, static_cast<int>(args.channels));
  }
}

// Grid: x over the elements of an image, `per_thread` at a time, y over images. `multiprocessors`
// of the device: a small batch is cut into more blocks, so that all are busy.
inline dim3 gaussian_mixup_grid(const GaussianMixupArgs& args, int multiprocessors,
                                int64_t per_thread = kMixupElements) {
  const int64_t elements = args.channels * args.height * args.width;
  const int64_t threads = ceil_div(elements, per_thread);
  const int64_t filled = int64_t{kMixupThreads} * kMixupBlocks * multiprocessors;
  const int64_t iterations =
      std::clamp<int64_t>(threads * args.batch / filled, 1, kMixupIterations);
  return grid_of(ceil_div(threads, kMixupThreads * iterations), args.batch);
}

// Bounds that let 32 bits hold an index into an image.
inline bool gaussian_mixup_is_small(const GaussianMixupArgs& args) {
  return args.channels * args.height * args.width < int64_t{1} << 30;
}
// Whether pixels are stored one after another, each with its channels.
inline bool gaussian_mixup_is_interleaved(const GaussianMixupArgs& args) {
  const int64_t C = args.channels;
  return (args.stride[1] == 1 || C == 1) && args.stride[3] == C && args.stride[2] == args.width * C;
}
// Whether images consist of whole chunks at aligned addresses.
template <typename In, typename Out>
inline bool gaussian_mixup_is_chunked(const GaussianMixupArgs& args) {
  constexpr int64_t N = kMixupChunk<In, Out>;
  return gaussian_mixup_is_interleaved(args) && gaussian_mixup_is_small(args) &&
         args.channels * args.height * args.width % N == 0 && is_aligned(args.images) &&
         is_aligned(args.out) && args.stride[0] * static_cast<int64_t>(sizeof(In)) % 16 == 0;
}
template <typename In, typename Out, typename T>
__global__ void __launch_bounds__(kMixupThreads)
    gaussian_mixup_kernel(const __grid_constant__ GaussianMixupArgs args) {
  constexpr int N = kMixupChunk<In, Out>;
  // The channels repeat, so that those of a chunk are consecutive.
  __shared__ ChannelMap<T> map[kMaxChannels + N - 1];
  const int C = static_cast<int>(args.channels);
  if (static_cast<int>(threadIdx.x) < C) {
    const ChannelMap<T> channel = channel_map<T>(args, threadIdx.x);
#pragma unroll 1
    for (int i = threadIdx.x; i < C + N - 1; i += C) map[i] = channel;
  }
  __syncthreads();

  const uint32_t elements = static_cast<uint32_t>(args.channels * args.height * args.width);
  const PhiloxCall call(args.rng_state, elements);
  const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t begin = thread / 32 * (32 * kMixupElements) + thread % 32 * N;
  const uint32_t stride = gridDim.x * blockDim.x * kMixupElements;
  const int begin_channel = begin % C, chunk_step = 32 * N % C, step = stride % C;
  for (int64_t image = blockIdx.y; image < args.batch; image += gridDim.y) {
    const Mixture<In, T> mixture(args, image);
    int channel = begin_channel;
#pragma unroll 1
    for (uint32_t first = begin; first < elements; first += stride) {
      mix_chunks<In, Out>(args, call, mixture, map, image, first, elements, channel, chunk_step);
      channel = channel_after(channel, step, C);
    }
  }
}

// Four neighboring pixels of three planes.
template <typename In>
using PixelPlanes = Packet<In, 4>[3];

// A lane computes units of four pixels, three Philox blocks. The units of a warp are staged in
// shared memory, from which they are stored as three 128-bit words per lane.
template <typename Out>
constexpr int kMixupUnits = 4 / static_cast<int>(sizeof(Out));
template <typename Out>
constexpr int64_t kMixupPixelElements = 12 * kMixupUnits<Out>;  // per thread and iteration

// Computes three-channel images. load(image, p, planes) loads the pixels [p, p + 4) that are in the
// image and leaves the others unchanged.
template <typename In, typename Out, typename Load>
__device__ __forceinline__ void mix_pixels(const GaussianMixupArgs& args, Load load) {
  constexpr int N = 16 / sizeof(Out);  // elements of a word
  constexpr int kUnits = kMixupUnits<Out>, kTile = 128 * kUnits;
  __shared__ uint4 staged[kMixupThreads / 32][3 * kTile / N];
  uint4* const tile_words = staged[threadIdx.x / 32];
  Out* const tile = reinterpret_cast<Out*>(tile_words);
  const int lane = threadIdx.x % 32;
  const ChannelMap<float> map[3] = {channel_map<float>(args, 0), channel_map<float>(args, 1),
                                    channel_map<float>(args, 2)};

  const int pixels = static_cast<int>(args.height * args.width), elements = 3 * pixels;
  const PhiloxCall call(args.rng_state, elements);
  const int begin = kTile * static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  const int stride = kTile * static_cast<int>(gridDim.x * blockDim.x / 32);
  for (int64_t image = blockIdx.y; image < args.batch; image += gridDim.y) {
    const Mixture<In, float> mixture(args, image);
    const In* own_image = static_cast<const In*>(args.images) + image * args.stride[0];
    const In* other_image = static_cast<const In*>(args.images) + mixture.partner * args.stride[0];
    // Tiles begin some pixels before the image, so that elements that are counted from rank 0's
    // first one begin at a multiple of N: a unit at a Philox block, and words in `out` at an
    // aligned address, since -3 x 3 index + index = 0 modulo 8.
    const uint64_t index = static_cast<uint64_t>(call.first_element + image * elements);
    const int before = static_cast<int>(3 * index & (N - 1));
    Out* const out = static_cast<Out*>(args.out) + image * elements;
    const bool words = (reinterpret_cast<uintptr_t>(out) - 3 * before * sizeof(Out)) % 16 == 0;
#pragma unroll 1
    for (int first = begin - before; first < pixels; first += stride) {
#pragma unroll
      for (int unit = 0; unit < kUnits; ++unit) {
        const int p = first + 128 * unit + 4 * lane;
        PixelPlanes<In> own = {}, other = {};
        load(own_image, p, own);
        if (mixture.mixes) load(other_image, p, other);
        float noise[12] = {};
#pragma unroll 1
        for (int draw = 0; draw < mixture.draws; ++draw) {
          const int64_t drawn = draw == 0 ? image : mixture.partner;
          const float factor = draw == 0 ? mixture.own_noise : mixture.partner_noise;
#pragma unroll
          for (int j = 0; j < 12; j += 4) {
            add_group_normals<sizeof(Out) == 2>(
                call, call.first_element + drawn * elements + 3 * p + j, factor, noise + j);
          }
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          Packet<Out, 4> four;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int k = 4 * i + j, c = k % 3;
            store_as(map[c](mixture.mix(own[c], other[c], k / 3), noise[k]), &four.value[j]);
          }
          four.store(tile + 384 * unit + 12 * lane + 4 * i);
        }
      }
      __syncwarp();  // before the warp reads what its lanes have staged
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        const int word = 32 * i + lane, at = 3 * first + N * word;
        if (words && at >= 0 && at + N <= elements) {
          __stwb(reinterpret_cast<uint4*>(out + at), tile_words[word]);
        } else {
#pragma unroll 1
          for (int j = 0; j < N; ++j) {
            if (static_cast<unsigned>(at + j) < static_cast<unsigned>(elements)) {
              out[at + j] = tile[N * word + j];
            }
          }
        }
      }
      __syncwarp();  // before the next tile is staged
    }
  }
}

// Whether images are three planes that consist of whole units at aligned addresses.
template <typename In>
inline bool gaussian_mixup_is_planar(const GaussianMixupArgs& args) {
  constexpr int64_t kBytes = sizeof(In), kAlignment = sizeof(Packet<In, 4>);
  return args.channels == 3 && gaussian_mixup_is_small(args) && args.stride[3] == 1 &&
         args.stride[2] == args.width && args.height * args.width % 4 == 0 &&
         reinterpret_cast<uintptr_t>(args.images) % kAlignment == 0 &&
         args.stride[0] * kBytes % kAlignment == 0 && args.stride[1] * kBytes % kAlignment == 0;
}
template <typename In, typename Out>
__global__ void __launch_bounds__(kMixupThreads)
    gaussian_mixup_planes_kernel(const __grid_constant__ GaussianMixupArgs args) {
  const int pixels = static_cast<int>(args.height * args.width);
  mix_pixels<In, Out>(args, [&](const In* image, int p, PixelPlanes<In>& planes) {
    if (static_cast<unsigned>(p) >= static_cast<unsigned>(pixels)) return;
#pragma unroll
    for (int c = 0; c < 3; ++c) planes[c].load(image + p + c * args.stride[1]);
  });
}

// Sets element `j` of a packet; of bytes in their word, since nvcc keeps an array of bytes in local
// memory.
template <typename In>
__device__ __forceinline__ void put_element(Packet<In, 4>* four, int j, In value) {
  if constexpr (std::is_same_v<In, uint8_t>) {
    uint32_t* const word = reinterpret_cast<uint32_t*>(four->value);
    *word = __byte_perm(*word, value, (0x3210 & ~(0xF << 4 * j)) | 4 << 4 * j);
  } else {
    four->value[j] = value;
  }
}

// Loads elements [at, at + 4) of an array of `count`; those outside are left unchanged.
template <typename In>
__device__ __forceinline__ void load_four(const In* array, int at, int count, Packet<In, 4>* four) {
  if constexpr (std::is_same_v<In, uint8_t>) {
    // From the two words that they are in.
    const int offset = static_cast<int>(reinterpret_cast<uintptr_t>(array + at) % 4);
    if (at >= offset && at - offset + 8 <= count) {
      const uint32_t* words = reinterpret_cast<const uint32_t*>(array + at - offset);
      *reinterpret_cast<uint32_t*>(four->value) = __funnelshift_r(words[0], words[1], 8 * offset);
      return;
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (static_cast<unsigned>(at + j) < static_cast<unsigned>(count)) {
      put_element(four, j, array[at + j]);
    }
  }
}

// Reorders four pixels, each with its three channels, to three planes.
template <typename In>
__device__ __forceinline__ void to_planes(PixelPlanes<In>& four) {
  if constexpr (std::is_same_v<In, uint8_t>) {
    uint32_t* words[3];
#pragma unroll
    for (int c = 0; c < 3; ++c) words[c] = reinterpret_cast<uint32_t*>(four[c].value);
    const uint32_t a = *words[0], b = *words[1], c = *words[2];
    *words[0] = __byte_perm(__byte_perm(a, b, 0x0630), c, 0x5210);
    *words[1] = __byte_perm(__byte_perm(a, b, 0x0741), c, 0x6210);
    *words[2] = __byte_perm(__byte_perm(a, b, 0x0052), c, 0x7410);
  } else {
    In run[12];
#pragma unroll
    for (int j = 0; j < 12; ++j) run[j] = four[j / 4].value[j % 4];
#pragma unroll
    for (int j = 0; j < 12; ++j) four[j % 3].value[j / 3] = run[j];
  }
}

enum class PixelLayout : int { kPlanes, kInterleaved, kStrided };
inline PixelLayout gaussian_mixup_layout(const GaussianMixupArgs& args) {
  if (gaussian_mixup_is_interleaved(args)) return PixelLayout::kInterleaved;
  const bool planes = args.stride[3] == 1 && args.stride[2] == args.width;
  return planes ? PixelLayout::kPlanes : PixelLayout::kStrided;
}
// Only with noise="paired" can a unit begin within a Philox block: that of a partner, if images do
// not consist of whole blocks.
inline bool gaussian_mixup_has_pixels(const GaussianMixupArgs& args) {
  return args.channels == 3 && gaussian_mixup_is_small(args) &&
         !(args.paired && args.height * args.width % 4 != 0);
}
// The number of blocks allows for 96 registers: nvcc alone uses fewer, for more blocks, and spills.
template <typename In, typename Out>
__global__ void __launch_bounds__(kMixupThreads, 10)
    gaussian_mixup_pixels_kernel(const __grid_constant__ GaussianMixupArgs args,
                                 PixelLayout layout) {
  const int pixels = static_cast<int>(args.height * args.width);
  mix_pixels<In, Out>(args, [&](const In* image, int p, PixelPlanes<In>& planes) {
    if (layout == PixelLayout::kPlanes) {
#pragma unroll
      for (int c = 0; c < 3; ++c) load_four(image + c * args.stride[1], p, pixels, &planes[c]);
    } else if (layout == PixelLayout::kInterleaved) {
#pragma unroll
      for (int i = 0; i < 3; ++i) load_four(image, 3 * p + 4 * i, 3 * pixels, &planes[i]);
      to_planes<In>(planes);
    } else {
      const int width = static_cast<int>(args.width);
      int h = p / width, w = p - h * width;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (static_cast<unsigned>(p + j) < static_cast<unsigned>(pixels)) {
          const In* pixel = image + h * args.stride[2] + w * args.stride[3];
#pragma unroll
          for (int c = 0; c < 3; ++c) put_element(&planes[c], j, pixel[c * args.stride[1]]);
        }
        if (++w == width) {
          w = 0;
          ++h;
        }
      }
    }
  });
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
  const In* other = static_cast<const In*>(args.images) + mixture.partner * args.stride[0];
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
    store_as(map[c](pixel, noise[j]), out + first + j);
    if (++c == args.channels) {
      c = 0;
      if (++w == args.width) {
        w = 0;
        ++h;
      }
    }
  }
}

template <typename In, typename Out, typename T>
__global__ void __launch_bounds__(kMixupThreads)
    gaussian_mixup_strided_kernel(const __grid_constant__ GaussianMixupArgs args) {
  __shared__ ChannelMap<T> map[kMaxChannels];
  if (threadIdx.x < args.channels) map[threadIdx.x] = channel_map<T>(args, threadIdx.x);
  __syncthreads();  // before threads read the map of channels

  const int64_t elements = args.channels * args.height * args.width;
  const PhiloxCall call(args.rng_state, elements);
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t image = blockIdx.y; image < args.batch; image += gridDim.y) {
    const Mixture<In, T> mixture(args, image);
    for (int64_t first = 4 * thread; first < elements; first += 4 * threads) {
      mix_four<In, Out>(args, call, mixture, map, image, first, elements);
    }
  }
}

// Calls launch(kernel, grid, arguments...) with the kernel for these images, as the type of a
// constant.
template <typename In, typename Out, typename Launch>
void with_gaussian_mixup_kernel(const GaussianMixupArgs& args, int multiprocessors, Launch launch) {
  using T = typename Accumulate<Out>::type;
  if (gaussian_mixup_is_chunked<In, Out>(args)) {
    return launch(Constant<&gaussian_mixup_kernel<In, Out, T>>(),
                  gaussian_mixup_grid(args, multiprocessors), args);
  }
  if constexpr (!std::is_same_v<In, double> && !std::is_same_v<Out, double>) {
    if (gaussian_mixup_is_planar<In>(args)) {
      return launch(Constant<&gaussian_mixup_planes_kernel<In, Out>>(),
                    gaussian_mixup_grid(args, multiprocessors, kMixupPixelElements<Out>), args);
    }
    if (gaussian_mixup_has_pixels(args)) {
      return launch(Constant<&gaussian_mixup_pixels_kernel<In, Out>>(),
                    gaussian_mixup_grid(args, multiprocessors, kMixupPixelElements<Out>), args,
                    gaussian_mixup_layout(args));
    }
  }
  launch(Constant<&gaussian_mixup_strided_kernel<In, Out, T>>(),
         gaussian_mixup_grid(args, multiprocessors), args);
}

constexpr int kMixupBackwardElements = 8;  // per thread
constexpr int kMixupBackwardThreads = 256;

// Grid: x over elements of an image, y over images. Each block finds the outputs that its image is
// mixed into by scanning `partner` tile by tile, in the order of the batch, so that no atomics are
// needed.
inline dim3 gaussian_mixup_backward_grid(const GaussianMixupBackwardArgs& args) {
  return grid_of(ceil_div(args.channels * args.pixels,
                          int64_t{kMixupBackwardThreads} * kMixupBackwardElements),
                 args.batch);
}
// Three blocks allow for 80 registers, as above.
template <typename Grad, typename Image, typename T>
__global__ void __launch_bounds__(kMixupBackwardThreads, 3)
    gaussian_mixup_backward_kernel(const __grid_constant__ GaussianMixupBackwardArgs args) {
  constexpr int N = kPacketElements<Grad, Image>, kPackets = kMixupBackwardElements / N;
  __shared__ int partner_matches[kMixupBackwardThreads];
  const int64_t elements = args.channels * args.pixels;
  // Packet k of a warp's lanes is 32 k packets behind the first.
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t first = (thread / 32 * 32 * kPackets + thread % 32) * N;
  const bool packed = elements % N == 0 && is_aligned(args.grad) && is_aligned(args.grad_images);
  for (int64_t image = blockIdx.y; image < args.batch; image += gridDim.y) {
    T sum[kPackets][N] = {};
    const auto add = [&](int64_t i, T weight) {
      const Grad* grad = static_cast<const Grad*>(args.grad) + i * elements;
#pragma unroll
      for (int k = 0; k < kPackets; ++k) {
        const int64_t at = first + 32 * N * k;
        if (packed && at < elements) {
          Packet<Grad, N> packet;
          packet.load(grad + at);
#pragma unroll
          for (int j = 0; j < N; ++j) sum[k][j] += weight * load_as<T>(packet.value[j]);
        } else {
#pragma unroll
          for (int j = 0; j < N; ++j) {
            if (at + j < elements) sum[k][j] += weight * load_as<T>(grad[at + j]);
          }
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
    Image* out = static_cast<Image*>(args.grad_images) + image * elements;
    const int C = static_cast<int>(args.channels), step = 32 * N % C;
    // `first` modulo C, in 32 bits: a division of 64 bits is a subroutine, around which nvcc
    // spills.
    const uint32_t high = static_cast<uint32_t>(first >> 20), low = first & 0xFFFFF;
    int channel = static_cast<int>((high % C * (0x100000u % C) + low) % C);
#pragma unroll
    for (int k = 0; k < kPackets; ++k) {
      const int64_t at = first + 32 * N * k;
      Packet<Image, N> packet;
      int c = channel;
      channel = channel_after(channel, step, C);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        store_as(sum[k][j] * static_cast<T>(args.inv_std[c]), &packet.value[j]);
        c = channel_after(c, 1, C);
      }
      if (packed && at < elements) {
        packet.store_global(out + at);
      } else {
#pragma unroll
        for (int j = 0; j < N; ++j) {
          if (at + j < elements) out[at + j] = packet.value[j];
        }
      }
    }
  }
}

}  // namespace sprout_fast
