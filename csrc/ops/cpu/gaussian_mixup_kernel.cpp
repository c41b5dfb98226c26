// gaussian_mixup on CPU. The inner loops are branch-free loops over short arrays, which the
// compiler vectorizes for the instruction set that it compiles for.
#include "gaussian_mixup_kernel.h"

#include <cmath>

#include "../../common/normal.h"
#include "philox_block.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

constexpr int64_t kMaxChunk = kMixupChunkPixels * kMaxChannels;

// Standard normals of kGroups groups of four elements from `first`, a multiple of 4. The four words
// of a Philox block, addressed by the first element of its group, serve four elements. Separate
// loops, because the polynomials together need more registers than there are.
template <int64_t kGroups, typename T>
void group_normals(const PhiloxDraw& draw, int64_t first, T* out) {
  uint32_t words[4][kGroups];
  for (int64_t g = 0; g < kGroups; g += kPhiloxLanes) {
    uint32_t block[4][kPhiloxLanes];
    draw.block(first + 4 * g, kEveryFourth, block);
    for (int64_t j = 0; j < 4; ++j) {
      for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) words[j][g + lane] = block[j][lane];
    }
  }
  T normal[4][kGroups];
  for (int64_t pair = 0; pair < 4; pair += 2) {
    T radius[kGroups];
    for (int64_t g = 0; g < kGroups; ++g) radius[g] = normal_radius<T>(words[pair][g]);
    for (int64_t g = 0; g < kGroups; ++g) {
      T sine, cosine;
      sincos_turns(words[pair + 1][g], &sine, &cosine);
      normal[pair][g] = radius[g] * cosine;
      normal[pair + 1][g] = radius[g] * sine;
    }
  }
  for (int64_t g = 0; g < kGroups; ++g) {
    for (int64_t j = 0; j < 4; ++j) out[4 * g + j] = normal[j][g];
  }
}

// Standard normals of elements [first, first + count). Writes whole groups of 4 x kPhiloxLanes, so
// `out` needs that much room after its end.
template <typename T>
void fill_normals(const PhiloxCall& call, int64_t first, int64_t count, T* out) {
  constexpr int64_t kMany = 8 * kPhiloxLanes;
  for (int64_t done = 0; done < count;) {
    const PhiloxDraw draw(call, Stream::kImageNoise, 0, first + done);
    const int64_t end = done + PhiloxDraw::reach(first + done, count - done);
    int64_t i = done;
    for (; i + 4 * kMany <= end; i += 4 * kMany) group_normals<kMany>(draw, first + i, out + i);
    for (; i < end; i += 4 * kPhiloxLanes) group_normals<kPhiloxLanes>(draw, first + i, out + i);
    done = end;
  }
}

// Loads pixels [first, first + count) of an image of any layout as [count, C] of T.
template <typename In, typename T>
void load_pixels_as(const GaussianMixupArgs& args, int64_t image, int64_t first, int64_t count,
                    T* out) {
  const int64_t C = args.channels, W = args.width;
  const In* base = static_cast<const In*>(args.images) + image * args.stride[0];
  const bool dense_rows = args.stride[2] == W * args.stride[3];
  if (dense_rows && args.stride[1] == 1 && args.stride[3] == C) {
    const In* source = base + first * C;
    for (int64_t i = 0; i < count * C; ++i) out[i] = static_cast<T>(source[i]);
    return;
  }
  for (int64_t c = 0; c < C; ++c) {
    const In* channel = base + c * args.stride[1];
    if (dense_rows) {
      const In* source = channel + first * args.stride[3];
      for (int64_t i = 0; i < count; ++i)
        out[i * C + c] = static_cast<T>(source[i * args.stride[3]]);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t h = (first + i) / W, w = (first + i) % W;
        out[i * C + c] = static_cast<T>(channel[h * args.stride[2] + w * args.stride[3]]);
      }
    }
  }
}

template <typename T>
void load_pixels(const GaussianMixupArgs& args, int64_t image, int64_t first, int64_t count,
                 T* out) {
  if (args.image_dtype == Dtype::kUInt8) {
    load_pixels_as<uint8_t>(args, image, first, count, out);
  } else {
    with_floating_type(args.image_dtype, [&](auto in) {
      load_pixels_as<decltype(in)>(args, image, first, count, out);
    });
  }
}

// Constants per channel, repeated to a multiple of C and of the vector width, so that loops over
// pixels use plain arrays.
constexpr int64_t kPatternRepeats = 16;

template <typename T>
struct ChannelPattern {
  alignas(64) T values[kMaxChannels * kPatternRepeats];

  template <typename Value>
  void fill(int64_t channels, Value value) {
    for (int64_t c = 0; c < channels; ++c) {
      const T v = static_cast<T>(value(c));
      for (int64_t i = 0; i < kPatternRepeats; ++i) values[i * channels + c] = v;
    }
  }
};

// out = shift + sum over terms of factor x source, per channel. The number of terms is a template
// parameter, because a condition inside the loop would become a masked load.
template <int kTerms, typename T, typename Out>
void combine(const T* const (&source)[4], const ChannelPattern<T> (&factor)[4],
             const ChannelPattern<T>& shift, int64_t channels, int64_t elements, Out* out) {
  const int64_t length = channels * kPatternRepeats;
  for (int64_t i = 0; i < elements; i += length) {
    const int64_t n = elements - i < length ? elements - i : length;
    for (int64_t j = 0; j < n; ++j) {
      T value = shift.values[j] + factor[0].values[j] * source[0][i + j];
      if constexpr (kTerms > 1) value += factor[1].values[j] * source[1][i + j];
      if constexpr (kTerms > 2) value += factor[2].values[j] * source[2][i + j];
      if constexpr (kTerms > 3) value += factor[3].values[j] * source[3][i + j];
      out[i + j] = static_cast<Out>(value);
    }
  }
}

// Room for a chunk, and for the whole groups of noise that extend beyond it.
constexpr int64_t kScratch = kMaxChunk + 4 * kPhiloxLanes + 8;

template <typename T>
struct Scratch {
  alignas(64) T own[kScratch];
  alignas(64) T other[kScratch];
  alignas(64) T own_noise[kScratch];
  alignas(64) T other_noise[kScratch];
  ChannelPattern<T> factor[4], shift;
};

template <typename T, typename Out>
void mix_chunk(const GaussianMixupArgs& args, const PhiloxCall& call, int64_t image, int64_t first,
               int64_t count, Scratch<T>& scratch) {
  const int64_t C = args.channels, elements = count * C;
  const int64_t image_elements = args.height * args.width * C;
  const int64_t partner = args.partner == nullptr ? image : args.partner[image];
  const T lam = args.partner == nullptr ? T(1) : static_cast<T>(args.lam[image * args.lam_stride]);
  const T rest = T(1) - lam;
  const bool mixes = partner != image && rest != T(0);

  const auto inv_std = [&](int64_t c) { return static_cast<T>(args.inv_std[c]); };
  const T* source[4] = {};
  int terms = 0;
  const auto add_image = [&](int64_t of_image, T weight, T* pixels) {
    load_pixels(args, of_image, first, count, pixels);
    const T scale = weight * static_cast<T>(args.pixel_scale);
    scratch.factor[terms].fill(C, [&](int64_t c) { return scale * inv_std(c); });
    source[terms++] = pixels;
  };
  const auto add_noise = [&](int64_t of_image, T weight, T* normals) {
    const int64_t element = call.first_element + of_image * image_elements + first * C;
    const int64_t skip = element & 3;
    fill_normals(call, element - skip, elements + skip, normals);
    scratch.factor[terms].fill(
        C, [&](int64_t c) { return weight * static_cast<T>(args.sigma[c]) * inv_std(c); });
    source[terms++] = normals + skip;
  };
  add_image(image, mixes ? lam : T(1), scratch.own);
  if (mixes) add_image(partner, rest, scratch.other);
  if (args.noise && mixes && args.paired) {  // one draw per input image
    add_noise(image, lam, scratch.own_noise);
    add_noise(partner, rest, scratch.other_noise);
  } else if (args.noise) {  // one draw for the output
    add_noise(image, mixes ? std::sqrt(lam * lam + rest * rest) : T(1), scratch.own_noise);
  }
  scratch.shift.fill(C, [&](int64_t c) { return -static_cast<T>(args.mean[c]) * inv_std(c); });

  Out* out = static_cast<Out*>(args.out) + image * image_elements + first * C;
  switch (terms) {
    case 1: combine<1>(source, scratch.factor, scratch.shift, C, elements, out); break;
    case 2: combine<2>(source, scratch.factor, scratch.shift, C, elements, out); break;
    case 3: combine<3>(source, scratch.factor, scratch.shift, C, elements, out); break;
    default: combine<4>(source, scratch.factor, scratch.shift, C, elements, out); break;
  }
}

template <typename T>
void mix_chunks(const GaussianMixupArgs& args, int64_t begin, int64_t end) {
  [[maybe_unused]] static thread_local Scratch<T>
      scratch;  // GCC 12 does not see its use in the lambda
  const int64_t pixels = args.height * args.width;
  const int64_t chunks = mixup_chunks_per_image(pixels);
  const PhiloxCall call(args.rng_state, pixels * args.channels);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t image = chunk / chunks, first = chunk % chunks * kMixupChunkPixels;
    const int64_t count = pixels - first < kMixupChunkPixels ? pixels - first : kMixupChunkPixels;
    with_floating_type(args.out_dtype, [&](auto out) {
      mix_chunk<T, decltype(out)>(args, call, image, first, count, scratch);
    });
  }
}

template <typename T, typename Grad, typename Image>
void backward_image(const GaussianMixupBackwardArgs& args, int64_t image) {
  const int64_t C = args.channels, elements = args.pixels * C;
  const Grad* grad = static_cast<const Grad*>(args.grad);
  Image* out = static_cast<Image*>(args.grad_images) + image * elements;
  const auto weight = [&](int64_t i) {
    return args.partner == nullptr ? T(1) : static_cast<T>(args.lam[i * args.lam_stride]);
  };
  // In tiles, summed over all outputs that the image is mixed into, in the order of the batch, so
  // that the sum is the same for any number of threads.
  constexpr int64_t kTilePixels = 256;
  T sum[kTilePixels * kMaxChannels];
  for (int64_t first = 0; first < args.pixels; first += kTilePixels) {
    const int64_t count =
        (args.pixels - first < kTilePixels ? args.pixels - first : kTilePixels) * C;
    const Grad* own = grad + image * elements + first * C;
    const T own_weight = weight(image);
    for (int64_t j = 0; j < count; ++j) sum[j] = own_weight * static_cast<T>(own[j]);
    for (int64_t i = 0; args.partner != nullptr && i < args.batch; ++i) {
      if (args.partner[i] != image) continue;
      const Grad* mixture = grad + i * elements + first * C;
      const T rest = T(1) - weight(i);
      for (int64_t j = 0; j < count; ++j) sum[j] += rest * static_cast<T>(mixture[j]);
    }
    for (int64_t j = 0; j < count; ++j) {
      out[first * C + j] = static_cast<Image>(sum[j] * static_cast<T>(args.inv_std[j % C]));
    }
  }
}

}  // namespace

void gaussian_mixup_chunks(const GaussianMixupArgs& args, int64_t begin, int64_t end) {
  if (args.out_dtype == Dtype::kFloat64) {
    mix_chunks<double>(args, begin, end);
  } else {
    mix_chunks<float>(args, begin, end);
  }
}

void gaussian_mixup_backward_images(const GaussianMixupBackwardArgs& args, int64_t begin,
                                    int64_t end) {
  with_floating_type(args.grad_dtype, [&](auto grad) {
    with_floating_type(args.image_dtype, [&](auto image) {
      using Accumulate = decltype(grad * 1.0f);
      for (int64_t i = begin; i < end; ++i) {
        backward_image<Accumulate, decltype(grad), decltype(image)>(args, i);
      }
    });
  });
}

SPROUT_KERNEL_NAMESPACE_END
