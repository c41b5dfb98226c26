// gaussian_mixup on CUDA: one pass over memory. A thread makes 16 neighbouring elements of an image
// (channels-last order), so uint8 comes in by one 128-bit load an image and bf16 leaves by two
// stores; its noise is four Philox blocks (five where the image does not begin on a group of four).
#pragma once

#include "../../common/device_types.h"
#include "../../common/normal.h"
#include "../../common/philox.h"
#include "../gaussian_mixup.h"
#include "grid.cuh"

namespace sprout_fast {

constexpr int kMixupElements = 16;  // a thread
constexpr int kMixupThreads = 256;

// Standard normals of `kMixupElements` elements from `element` on.
template <typename T>
__device__ __forceinline__ void image_normals(const PhiloxCall& call, int64_t element,
                                              T (&out)[kMixupElements]) {
  const int skip = static_cast<int>(element & 3);
#pragma unroll
  for (int group = 0; group < kMixupElements / 4 + 1; ++group) {
    if (group == kMixupElements / 4 && skip == 0) break;
    const Philox4 w = call.words(Stream::kImageNoise, element - skip + 4 * group, 0);
    T n[4];
    normal_pair(w.w0, w.w1, &n[0], &n[1]);
    normal_pair(w.w2, w.w3, &n[2], &n[3]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      // out[4 group + j - skip]: by comparing with compile-time places, so that `out` stays in
      // registers.
#pragma unroll
      for (int shift = 0; shift < 4; ++shift) {
        const int place = 4 * group + j - shift;
        if (place >= 0 && place < kMixupElements && shift == skip) out[place] = n[j];
      }
    }
  }
}

// Elements [first, first + count) of an image, count <= kMixupElements, as T.
template <typename In, typename T>
__device__ __forceinline__ void load_elements(const GaussianMixupArgs& args, int64_t image,
                                              int64_t first, int count, bool dense,
                                              T (&out)[kMixupElements]) {
  const In* base = static_cast<const In*>(args.images) + image * args.stride[0];
  if (dense && count == kMixupElements && is_aligned(base + first)) {
    Packet<In, kMixupElements> packet;
    packet.load(base + first);
#pragma unroll
    for (int j = 0; j < kMixupElements; ++j) out[j] = load_as<T>(packet.value[j]);
    return;
  }
  // Any strides: one division an element, and neighbouring threads still read neighbouring pixels.
#pragma unroll
  for (int j = 0; j < kMixupElements; ++j) {
    out[j] = T(0);
    if (j < count) {
      const int64_t e = first + j;
      const int64_t pixel = e / args.channels, c = e - pixel * args.channels;
      const int64_t h = pixel / args.width, w = pixel - h * args.width;
      out[j] = load_as<T>(base[c * args.stride[1] + h * args.stride[2] + w * args.stride[3]]);
    }
  }
}

// Grid: x over the groups of 16 elements of an image, y over images.
inline dim3 gaussian_mixup_grid(const GaussianMixupArgs& args) {
  const int64_t elements = args.channels * args.height * args.width;
  return grid_of(ceil_div(ceil_div(elements, kMixupElements), kMixupThreads), args.batch);
}
template <typename In, typename Out, typename T>
__global__ void __launch_bounds__(kMixupThreads)
    gaussian_mixup_kernel(const __grid_constant__ GaussianMixupArgs args) {
  __shared__ T sigma[kMaxChannels], mean[kMaxChannels], inv_std[kMaxChannels];
  const int C = static_cast<int>(args.channels);
  if (static_cast<int>(threadIdx.x) < C) {
    sigma[threadIdx.x] = static_cast<T>(args.sigma[threadIdx.x]);
    mean[threadIdx.x] = static_cast<T>(args.mean[threadIdx.x]);
    inv_std[threadIdx.x] = static_cast<T>(args.inv_std[threadIdx.x]);
  }
  __syncthreads();

  const int64_t elements = args.channels * args.height * args.width;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kMixupElements;
  if (first >= elements) return;
  const int count =
      static_cast<int>(elements - first < kMixupElements ? elements - first : kMixupElements);
  const bool dense = args.stride[1] == 1 && args.stride[3] == args.channels &&
                     args.stride[2] == args.width * args.channels;
  const PhiloxCall call(args.rng_state, elements);
  const T pixel_scale = static_cast<T>(args.pixel_scale);
  const int first_channel = static_cast<int>(first % C);

  for (int64_t image = blockIdx.y; image < args.batch; image += gridDim.y) {
    int64_t partner = image;
    T lam = T(1);
    if (args.partner != nullptr) {
      partner = args.partner[image];
      lam = static_cast<T>(args.lam[image * args.lam_stride]);
    }
    // A partner or lam out of range makes the image NaN, and nothing is read for it.
    const bool valid = partner >= 0 && partner < args.batch && lam >= T(0) && lam <= T(1);
    const T rest = T(1) - lam;
    const bool mixes = valid && partner != image && rest != T(0);

    T value[kMixupElements];
    load_elements<In>(args, image, first, count, dense, value);
    const T own_weight = mixes ? lam * pixel_scale : pixel_scale;
#pragma unroll
    for (int j = 0; j < kMixupElements; ++j) value[j] *= own_weight;
    if (mixes) {
      T other[kMixupElements];
      load_elements<In>(args, partner, first, count, dense, other);
#pragma unroll
      for (int j = 0; j < kMixupElements; ++j) value[j] += rest * pixel_scale * other[j];
    }
    if (args.noise) {
      // One draw for the mixture ("marginal"), or one for each of the two images ("paired").
      T own_factor = T(1);
      if (mixes) own_factor = args.paired ? lam : std::sqrt(lam * lam + rest * rest);
      for (int source = 0; source < (mixes && args.paired ? 2 : 1); ++source) {
        T normals[kMixupElements];
        image_normals(call, call.first_element + (source == 0 ? image : partner) * elements + first,
                      normals);
        const T factor = source == 0 ? own_factor : rest;
        int c = first_channel;
#pragma unroll
        for (int j = 0; j < kMixupElements; ++j) {
          value[j] += factor * sigma[c] * normals[j];
          c = c + 1 == C ? 0 : c + 1;
        }
      }
    }
    int c = first_channel;
    Packet<Out, kMixupElements> packet;
#pragma unroll
    for (int j = 0; j < kMixupElements; ++j) {
      const T normalized = (value[j] - mean[c]) * inv_std[c];
      store_as(valid ? normalized : device_nan<T>(), &packet.value[j]);
      c = c + 1 == C ? 0 : c + 1;
    }
    Out* out = static_cast<Out*>(args.out) + image * elements + first;
    if (count == kMixupElements && is_aligned(out)) {
      packet.store(out);
    } else {
#pragma unroll
      for (int j = 0; j < kMixupElements; ++j) {
        if (j < count) out[j] = packet.value[j];
      }
    }
  }
}

// Grid: x over elements of an image, y over images. Each block finds the mixtures that its image is
// in by scanning `partner` a tile at a time, in the order of the batch: no atomics.
inline dim3 gaussian_mixup_backward_grid(const GaussianMixupBackwardArgs& args) {
  return grid_of(ceil_div(args.channels * args.pixels, kMixupThreads), args.batch);
}
template <typename Grad, typename Image, typename T>
__global__ void __launch_bounds__(kMixupThreads)
    gaussian_mixup_backward_kernel(const __grid_constant__ GaussianMixupBackwardArgs args) {
  __shared__ int partner_matches[kMixupThreads];
  const int64_t elements = args.channels * args.pixels;
  const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool inside = e < elements;
  const Grad* grad = static_cast<const Grad*>(args.grad);
  for (int64_t image = blockIdx.y; image < args.batch; image += gridDim.y) {
    const auto weight = [&](int64_t i) {
      if (args.partner == nullptr) return T(1);
      const T lam = static_cast<T>(args.lam[i * args.lam_stride]);
      const int64_t partner = args.partner[i];
      const bool valid = lam >= T(0) && lam <= T(1) && partner >= 0 && partner < args.batch;
      return valid ? lam : device_nan<T>();
    };
    T sum = inside ? weight(image) * load_as<T>(grad[image * elements + e]) : T(0);
    for (int64_t tile = 0; args.partner != nullptr && tile < args.batch; tile += blockDim.x) {
      const int64_t i = tile + threadIdx.x;
      const int match = i < args.batch && args.partner[i] == image;
      partner_matches[threadIdx.x] = match;
      if (__syncthreads_or(match)) {
        for (int j = 0; j < static_cast<int>(blockDim.x); ++j) {
          if (partner_matches[j] && inside) {
            sum += (T(1) - weight(tile + j)) * load_as<T>(grad[(tile + j) * elements + e]);
          }
        }
      }
      __syncthreads();  // before the next tile's matches are written
    }
    if (inside) {
      store_as(sum * static_cast<T>(args.inv_std[e % args.channels]),
               static_cast<Image*>(args.grad_images) + image * elements + e);
    }
  }
}

}  // namespace sprout_fast
