// gaussian_mixup on CPU, in one pass over memory: noise is drawn, mixed with the pixels and stored
// while it is in registers. Pixels that are not dense, and 16-bit ones, are first copied to a
// buffer. float64 and noise="paired" add up buffers in plain loops instead, which the compiler
// vectorizes.
#include "gaussian_mixup_kernel.h"

#include <cmath>
#include <type_traits>

#include "../../common/normal.h"
#include "philox_block.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

constexpr int64_t kMaxChunk = kMixupChunkPixels * kMaxChannels;

// Noise is drawn for steps of this many elements, a group of 4 kLanes per vector of words.
constexpr int kStepGroups = 2;
constexpr int64_t kGroup = 4 * kLanes, kStep = kStepGroups * kGroup;

// The standard normals of a group of elements from the words of its Philox blocks, each of which
// serves four elements.
SPROUT_INLINE void group_normals(const Words (&words)[4][kStepGroups], int group,
                                 Floats (&out)[4]) {
  normal_pair(words[0][group], words[1][group], &out[0], &out[1]);
  normal_pair(words[2][group], words[3][group], &out[2], &out[3]);
  Words bits[4] = {(Words)out[0], (Words)out[1], (Words)out[2], (Words)out[3]};
  transpose_in_lanes(bits);
  for (int i = 0; i < 4; ++i) out[i] = (Floats)bits[i];
}

// Those of kStep elements from `first`, a multiple of four.
inline void step_normals(const PhiloxDraw& draw, int64_t first, float* out) {
  Words words[4][kStepGroups];
  draw.fours(first, words);
  for (int group = 0; group < kStepGroups; ++group) {
    Floats normal[4];
    group_normals(words, group, normal);
    for (int i = 0; i < 4; ++i) store(normal[i], out + group * kGroup + i * kLanes);
  }
}
inline void step_normals(const PhiloxDraw& draw, int64_t first, double* out) {
  Words words[4][kStepGroups];
  draw.fours(first, words);
  for (int group = 0; group < kStepGroups; ++group) {
    Words bits[4] = {words[0][group], words[1][group], words[2][group], words[3][group]};
    transpose_in_lanes(bits);
    uint32_t of_element[kGroup];
    for (int i = 0; i < 4; ++i) store(bits[i], of_element + i * kLanes);
    for (int64_t i = 0; i < kGroup; i += 2) {
      double* pair = out + group * kGroup + i;
      normal_pair(of_element[i], of_element[i + 1], &pair[0], &pair[1]);
    }
  }
}

// Standard normals of elements [first, first + count), `first` a multiple of four. Writes whole
// steps, so `out` needs room for one after its end.
template <typename T>
void fill_normals(const PhiloxCall& call, int64_t first, int64_t count, T* out) {
  for (int64_t done = 0; done < count;) {
    const PhiloxDraw draw(call, Stream::kImageNoise, 0, first + done);
    const int64_t end = done + PhiloxDraw::reach(first + done, count - done);
    for (int64_t i = done; i < end; i += kStep) step_normals(draw, first + i, out + i);
    done = end;
  }
}

// Whether images are stored as [B, H, W, C], up to the distance between images.
inline bool is_dense(const GaussianMixupArgs& args) {
  return args.stride[1] == 1 && args.stride[3] == args.channels &&
         args.stride[2] == args.width * args.stride[3];
}

// out[3 i + c] = planes[c][i]: a loop that the compiler vectorizes, as it does not for other C.
template <typename In, typename To>
void interleave(const In* const (&planes)[3], int64_t count, To* __restrict out) {
  const In* __restrict red = planes[0], * __restrict green = planes[1], * __restrict blue = planes[2];
  for (int64_t i = 0; i < count; ++i) {
    out[3 * i] = static_cast<To>(red[i]);
    out[3 * i + 1] = static_cast<To>(green[i]);
    out[3 * i + 2] = static_cast<To>(blue[i]);
  }
}

// Loads pixels [first, first + count) of an image of any layout as [count, C] of To.
template <typename In, typename To>
void load_pixels_as(const GaussianMixupArgs& args, int64_t image, int64_t first, int64_t count,
                    To* out) {
  const int64_t C = args.channels, W = args.width;
  const In* base = static_cast<const In*>(args.images) + image * args.stride[0];
  const bool dense_rows = args.stride[2] == W * args.stride[3];
  if (is_dense(args)) {
    const In* source = base + first * C;
    for (int64_t i = 0; i < count * C; ++i) out[i] = static_cast<To>(source[i]);
    return;
  }
  if (dense_rows && args.stride[3] == 1 && C == 3) {
    const In* planes[3] = {base + first, base + args.stride[1] + first,
                           base + 2 * args.stride[1] + first};
    interleave(planes, count, out);
    return;
  }
  for (int64_t c = 0; c < C; ++c) {
    const In* channel = base + c * args.stride[1];
    if (dense_rows) {
      const In* source = channel + first * args.stride[3];
      for (int64_t i = 0; i < count; ++i)
        out[i * C + c] = static_cast<To>(source[i * args.stride[3]]);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t h = (first + i) / W, w = (first + i) % W;
        out[i * C + c] = static_cast<To>(channel[h * args.stride[2] + w * args.stride[3]]);
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

// What an output image is made of.
template <typename T>
struct Mixture {
  int64_t image, partner;
  T lam, rest;
  bool mixes;

  Mixture(const GaussianMixupArgs& args, int64_t image)
      : image(image),
        partner(args.partner == nullptr ? image : args.partner[image]),
        lam(args.partner == nullptr ? T(1) : static_cast<T>(args.lam[image * args.lam_stride])),
        rest(T(1) - lam),
        mixes(partner != image && rest != T(0)) {}

  T own_weight() const { return mixes ? lam : T(1); }
  T noise_weight() const { return mixes ? std::sqrt(lam * lam + rest * rest) : T(1); }
};

// Constants per channel, repeated to a multiple of C and of a group, so that loops over pixels use
// plain arrays.
template <typename T>
struct ChannelPattern {
  alignas(kVectorBytes) T values[kMaxChannels * kGroup];

  // value(c) for the channel of each element, the first of which has channel `first`.
  template <typename Value>
  void fill(int64_t channels, int64_t first, Value value) {
    for (int64_t i = 0; i < channels; ++i) {
      values[i] = static_cast<T>(value((first + i) % channels));
    }
    const int64_t length = channels * kGroup;
    for (int64_t size = channels; size < length; size *= 2) {
      memcpy(values + size, values, sizeof(T) * (size < length - size ? size : length - size));
    }
  }
};

// The terms of an output in float32, per channel: out = own x pixel + other x partner's pixel +
// noise x normal + shift.
struct Terms {
  int64_t image = -1, channel = -1;  // what they are of, and the channel of the first element
  ChannelPattern<float> own, other, noise, shift;

  void fill(const GaussianMixupArgs& args, const Mixture<float>& mixture, int64_t first) {
    if (mixture.image == image && first == channel) return;
    image = mixture.image;
    channel = first;
    const int64_t C = args.channels;
    const auto inv_std = [&](int64_t c) { return static_cast<float>(args.inv_std[c]); };
    const auto weigh = [&](float weight, ChannelPattern<float>& pattern) {
      const float scale = weight * static_cast<float>(args.pixel_scale);
      pattern.fill(C, first, [&](int64_t c) { return scale * inv_std(c); });
    };
    weigh(mixture.own_weight(), own);
    weigh(mixture.rest, other);
    noise.fill(C, first, [&](int64_t c) {
      return mixture.noise_weight() * static_cast<float>(args.sigma[c]) * inv_std(c);
    });
    shift.fill(C, first, [&](int64_t c) { return -static_cast<float>(args.mean[c]) * inv_std(c); });
  }
};

// Where outputs go.
struct Output {
  Dtype dtype;
  void* data;          // of the first element
  bool around_caches;  // for float32

  // The same from an element on.
  Output from(int64_t element) const {
    const int64_t size = dtype == Dtype::kFloat32 ? 4 : 2;
    return {dtype, static_cast<char*>(data) + element * size, around_caches};
  }

  void store(const float* values, int64_t first, int64_t count) const {
    with_floating_type(dtype, [&](auto type) {
      auto* to = static_cast<decltype(type)*>(data) + first;
      if (count == kStep) {
        for (int64_t i = 0; i < kStep; ++i) to[i] = static_cast<decltype(type)>(values[i]);
      } else {
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<decltype(type)>(values[i]);
      }
    });
  }
};

// Mixes kStep elements, whose terms begin at `phase`, and moves it.
template <bool kMixes, bool kNoise, typename In>
SPROUT_INLINE void mix_step(const PhiloxDraw& draw, int64_t element, const Terms& terms,
                            int64_t length, int64_t& phase, const In* own, const In* other,
                            float* out, bool around_caches) {
  Words words[4][kStepGroups];
  if constexpr (kNoise) draw.fours(element, words);
  for (int group = 0; group < kStepGroups; ++group) {
    Floats normal[4];
    if constexpr (kNoise) group_normals(words, group, normal);
    for (int i = 0; i < 4; ++i) {
      const int64_t at = phase + i * kLanes, j = group * kGroup + i * kLanes;
      Floats value = load<Floats>(terms.shift.values + at) +
                     load<Floats>(terms.own.values + at) * load_floats(own + j);
      if constexpr (kMixes) value += load<Floats>(terms.other.values + at) * load_floats(other + j);
      if constexpr (kNoise) value += load<Floats>(terms.noise.values + at) * normal[i];
      if (around_caches) {
        store_around_caches(value, out + j);
      } else {
        store(value, out + j);
      }
    }
    phase = phase + kGroup == length ? 0 : phase + kGroup;
  }
}

// `count` elements from `first`, with which `own`, `other` and `out` begin. `terms` begin with the
// group of four that it is in.
template <bool kMixes, bool kNoise, typename In>
void mix_elements(const PhiloxDraw& draw, int64_t first, const Terms& terms, int64_t channels,
                  const In* own, const In* other, int64_t count, const Output& out) {
  const int64_t skip = first & 3;
  const int64_t length = channels * kGroup;
  float* floats = out.dtype == Dtype::kFloat32 ? static_cast<float*>(out.data) : nullptr;
  const uintptr_t address = reinterpret_cast<uintptr_t>(floats) - skip * sizeof(float);
  const bool aligned = address % kVectorBytes == 0;
  int64_t phase = 0;
  for (int64_t i = -skip; i < count; i += kStep) {
    // A step at an end is computed from copies, so that nothing beyond the ends is touched.
    const bool whole = i >= 0 && i + kStep <= count;
    In copies[2][kStep];
    alignas(kVectorBytes) float result[kStep];
    const In *a = own + i, *b = other + i;
    const int64_t begin = i < 0 ? -i : 0, end = count - i < kStep ? count - i : kStep;
    if (!whole) {
      memset(copies, 0, sizeof copies);
      memcpy(copies[0] + begin, a + begin, sizeof(In) * (end - begin));
      if (kMixes) memcpy(copies[1] + begin, b + begin, sizeof(In) * (end - begin));
      a = copies[0], b = copies[1];
    }
    const bool direct = whole && floats != nullptr;
    float* to = direct ? floats + i : result;
    const bool around = direct && aligned && out.around_caches;
    mix_step<kMixes, kNoise>(draw, first + i, terms, length, phase, a, b, to, around);
    if (!direct) out.store(result + begin, i + begin, end - begin);
  }
}

// out = shift + sum over terms of factor x source, per channel. The number of terms is a template
// parameter, because a condition inside the loop would become a masked load.
template <int kTerms, typename T, typename Out>
void combine(const T* const (&source)[4], const ChannelPattern<T> (&factor)[4],
             const ChannelPattern<T>& shift, int64_t channels, int64_t elements, Out* out) {
  const int64_t length = channels * kGroup;
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

// Room for a chunk, and for the whole steps of noise that extend beyond it.
constexpr int64_t kScratch = kMaxChunk + kStep + 8;

template <typename T>
struct Scratch {
  alignas(kVectorBytes) T own[kScratch];
  alignas(kVectorBytes) T other[kScratch];
  alignas(kVectorBytes) T own_noise[kScratch];
  alignas(kVectorBytes) T other_noise[kScratch];
  ChannelPattern<T> factor[4], shift;
  Terms terms;  // for mix_chunk_in_one_pass
};

// The pixels of a chunk of an image: where they are, if they are dense and of type In, else copied.
template <typename In>
const In* pixels_of(const GaussianMixupArgs& args, int64_t image, int64_t first, int64_t count,
                    void* copy) {
  constexpr Dtype kDtype = std::is_same_v<In, uint8_t> ? Dtype::kUInt8 : Dtype::kFloat32;
  if (is_dense(args) && args.image_dtype == kDtype) {
    return static_cast<const In*>(args.images) + image * args.stride[0] + first * args.channels;
  }
  if constexpr (std::is_same_v<In, uint8_t>) {
    load_pixels_as<uint8_t>(args, image, first, count, static_cast<uint8_t*>(copy));
  } else {
    load_pixels(args, image, first, count, static_cast<float*>(copy));
  }
  return static_cast<const In*>(copy);
}

template <typename In>
void mix_chunk_in_one_pass(const GaussianMixupArgs& args, const PhiloxCall& call, int64_t image,
                           int64_t first, int64_t count, Output out, Scratch<float>& scratch) {
  const Mixture<float> mixture(args, image);
  const int64_t C = args.channels, elements = count * C;
  const In* own = pixels_of<In>(args, image, first, count, scratch.own);
  const In* other =
      mixture.mixes ? pixels_of<In>(args, mixture.partner, first, count, scratch.other) : own;
  const int64_t element = call.first_element + image * args.height * args.width * C + first * C;
  for (int64_t done = 0; done < elements;) {  // once, unless the upper 32 bits change
    const int64_t some = PhiloxDraw::reach(element + done, elements - done);
    const PhiloxDraw draw(call, Stream::kImageNoise, 0, element + done);
    const int64_t skip = (element + done) & 3;
    scratch.terms.fill(args, mixture, (done - skip + 4 * C) % C);
    const auto mix = [&](auto mixes, auto noise) {
      mix_elements<mixes.value, noise.value>(draw, element + done, scratch.terms, C, own + done,
                                             other + done, some, out.from(done));
    };
    constexpr std::true_type kYes;
    constexpr std::false_type kNo;
    if (mixture.mixes) {
      args.noise ? mix(kYes, kYes) : mix(kYes, kNo);
    } else {
      args.noise ? mix(kNo, kYes) : mix(kNo, kNo);
    }
    done += some;
  }
}

template <typename T, typename Out>
void mix_chunk_by_terms(const GaussianMixupArgs& args, const PhiloxCall& call, int64_t image,
                        int64_t first, int64_t count, Scratch<T>& scratch) {
  const int64_t C = args.channels, elements = count * C;
  const int64_t image_elements = args.height * args.width * C;
  const Mixture<T> mixture(args, image);
  const auto inv_std = [&](int64_t c) { return static_cast<T>(args.inv_std[c]); };
  const T* source[4] = {};
  int terms = 0;
  const auto add_image = [&](int64_t of_image, T weight, T* pixels) {
    load_pixels(args, of_image, first, count, pixels);
    const T scale = weight * static_cast<T>(args.pixel_scale);
    scratch.factor[terms].fill(C, 0, [&](int64_t c) { return scale * inv_std(c); });
    source[terms++] = pixels;
  };
  const auto add_noise = [&](int64_t of_image, T weight, T* normals) {
    const int64_t element = call.first_element + of_image * image_elements + first * C;
    const int64_t skip = element & 3;
    fill_normals(call, element - skip, elements + skip, normals);
    scratch.factor[terms].fill(
        C, 0, [&](int64_t c) { return weight * static_cast<T>(args.sigma[c]) * inv_std(c); });
    source[terms++] = normals + skip;
  };
  add_image(image, mixture.own_weight(), scratch.own);
  if (mixture.mixes) add_image(mixture.partner, mixture.rest, scratch.other);
  if (args.noise && mixture.mixes && args.paired) {  // one draw per input image
    add_noise(image, mixture.lam, scratch.own_noise);
    add_noise(mixture.partner, mixture.rest, scratch.other_noise);
  } else if (args.noise) {  // one draw for the output
    add_noise(image, mixture.noise_weight(), scratch.own_noise);
  }
  scratch.shift.fill(C, 0, [&](int64_t c) { return -static_cast<T>(args.mean[c]) * inv_std(c); });

  Out* out = static_cast<Out*>(args.out) + image * image_elements + first * C;
  switch (terms) {
    case 1: combine<1>(source, scratch.factor, scratch.shift, C, elements, out); break;
    case 2: combine<2>(source, scratch.factor, scratch.shift, C, elements, out); break;
    case 3: combine<3>(source, scratch.factor, scratch.shift, C, elements, out); break;
    default: combine<4>(source, scratch.factor, scratch.shift, C, elements, out); break;
  }
}

// Without noise, storing around the caches is a third faster from this size on: lines are not read
// before they are written, and whoever reads the batch next would not find much of it in a cache
// anyway. Next to the arithmetic of the noise it is a fifth slower.
constexpr int64_t kAroundCaches = 16 << 20;

// Not inlined: in a shared library, the loops around a thread-local object that GCC 12 sees keep
// fewer of their vectors in registers, and with AVX-512 take 1.16 to 1.5 times as long.
template <typename T>
__attribute__((noinline)) Scratch<T>& thread_scratch() {
  static thread_local Scratch<T> scratch;
  return scratch;
}

template <typename T>
void mix_chunks(const GaussianMixupArgs& args, int64_t begin, int64_t end) {
  Scratch<T>& scratch = thread_scratch<T>();
  scratch.terms.image = -1;
  const int64_t C = args.channels, pixels = args.height * args.width;
  const int64_t chunks = mixup_chunks_per_image(pixels);
  const PhiloxCall call(args.rng_state, pixels * C);
  const bool around_caches = !args.noise && args.batch * pixels * C * 4 >= kAroundCaches;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t image = chunk / chunks, first = chunk % chunks * kMixupChunkPixels;
    const int64_t count = pixels - first < kMixupChunkPixels ? pixels - first : kMixupChunkPixels;
    if constexpr (std::is_same_v<T, float>) {
      if (!args.paired || args.partner == nullptr) {
        const Output out{args.out_dtype, args.out, around_caches};
        const Output of_chunk = out.from((image * pixels + first) * C);
        if (args.image_dtype == Dtype::kUInt8) {
          mix_chunk_in_one_pass<uint8_t>(args, call, image, first, count, of_chunk, scratch);
        } else {
          mix_chunk_in_one_pass<float>(args, call, image, first, count, of_chunk, scratch);
        }
        continue;
      }
    }
    with_floating_type(args.out_dtype, [&](auto out) {
      mix_chunk_by_terms<T, decltype(out)>(args, call, image, first, count, scratch);
    });
  }
  if (around_caches) finish_stores_around_caches();
}

// In tiles, summed over all outputs that the image is mixed into, in the order of the batch, so
// that the sum is the same for any number of threads.
template <typename T, typename Grad, typename Image>
void backward_image(const GaussianMixupBackwardArgs& args, int64_t image) {
  constexpr int64_t kTilePixels = 256;
  const int64_t C = args.channels, elements = args.pixels * C;
  const Grad* grad = static_cast<const Grad*>(args.grad);
  Image* out = static_cast<Image*>(args.grad_images) + image * elements;
  const auto weight = [&](int64_t i) {
    return args.partner == nullptr ? T(1) : static_cast<T>(args.lam[i * args.lam_stride]);
  };
  // `count` elements of the sum from `first`, in the order of the gradient.
  const auto add_up = [&](int64_t first, int64_t count, T* sum) {
    const Grad* own = grad + image * elements + first;
    const T own_weight = weight(image);
    for (int64_t j = 0; j < count; ++j) sum[j] = own_weight * static_cast<T>(own[j]);
    for (int64_t i = 0; args.partner != nullptr && i < args.batch; ++i) {
      if (args.partner[i] != image) continue;
      const Grad* mixture = grad + i * elements + first;
      const T rest = T(1) - weight(i);
      for (int64_t j = 0; j < count; ++j) sum[j] += rest * static_cast<T>(mixture[j]);
    }
  };
  ChannelPattern<T> inv_std;
  inv_std.fill(C, 0, [&](int64_t c) { return args.inv_std[c]; });
  T sum[kTilePixels * kMaxChannels];
  for (int64_t first = 0; first < args.pixels; first += kTilePixels) {
    const int64_t pixels = args.pixels - first < kTilePixels ? args.pixels - first : kTilePixels;
    Image* tile = out + first * C;
    if (!args.grad_is_planar) {
      add_up(first * C, pixels * C, sum);
      const int64_t length = C * kGroup;
      for (int64_t i = 0; i < pixels * C; i += length) {
        const int64_t n = pixels * C - i < length ? pixels * C - i : length;
        for (int64_t j = 0; j < n; ++j) {
          tile[i + j] = static_cast<Image>(sum[i + j] * inv_std.values[j]);
        }
      }
      continue;
    }
    for (int64_t c = 0; c < C; ++c) {
      T* plane = sum + c * kTilePixels;
      add_up(c * args.pixels + first, pixels, plane);
      for (int64_t i = 0; i < pixels; ++i) plane[i] *= inv_std.values[c];
    }
    if (C == 3) {
      interleave({sum, sum + kTilePixels, sum + 2 * kTilePixels}, pixels, tile);
    } else {
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t i = 0; i < pixels; ++i) {
          tile[i * C + c] = static_cast<Image>(sum[c * kTilePixels + i]);
        }
      }
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
