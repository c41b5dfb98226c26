// Times of the stages of gaussian_mixup and sprout_loss on CPU, on one thread and in cache: the
// minimum of many, which other processes disturb least. In nanoseconds and in cycles, of which the
// processor may have more or fewer per tick of its clock. From the project's root, for AVX2
// (-DSPROUT_ISA=avx512 -mavx512f -mavx512dq -mavx512vl -mavx512bw -mprefer-vector-width=512 beside
// it for AVX-512), with -fPIC as in the library, since it changes how GCC allocates registers:
//
//   g++ -std=gnu++17 -O3 -fPIC -fno-math-errno -fno-trapping-math -fopenmp-simd -fno-thread-jumps
//     -I . -DSPROUT_ISA=avx2 -mavx2 -mfma -mf16c tests/benchmarks/stages.cpp -o /tmp/stages
#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "csrc/ops/cpu/aligned_array.h"
#include "csrc/ops/cpu/gaussian_mixup_kernel.cpp"
#include "csrc/ops/cpu/sprout_loss_kernel.cpp"

using namespace sprout_fast;
using namespace sprout_fast::SPROUT_ISA;

namespace {

template <typename Body>
double least_ticks(Body body) {
  uint64_t least = ~uint64_t{0};
  for (int64_t i = 0; i < 100; ++i) {
    const uint64_t begin = __rdtsc();
    body(i % 16);
    least = std::min<uint64_t>(least, __rdtsc() - begin);
  }
  return static_cast<double>(least);
}

// Ticks of the clock per cycle of the processor, and per nanosecond.
struct Clock {
  double per_cycle, per_nanosecond;

  Clock() {
    // An addition per cycle, since each waits for the previous one.
    constexpr int kTimes = 10000, kAdditions = 16;
    per_cycle = least_ticks([](int64_t) {
                  uint64_t x = 0;
                  for (int i = 0; i < kTimes; ++i) {
                    asm volatile(".rept %c1\n add $1, %0\n .endr" : "+r"(x) : "i"(kAdditions));
                  }
                }) /
                (kTimes * kAdditions);
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto begin = now();
    const uint64_t first = __rdtsc();
    while (now() - begin < std::chrono::milliseconds(50)) {
    }
    const double passed = std::chrono::duration<double, std::nano>(now() - begin).count();
    per_nanosecond = static_cast<double>(__rdtsc() - first) / passed;
  }

  // Of a stage that takes `ticks` for `elements`.
  void print(const char* setting, const char* stage, double ticks, int64_t elements) const {
    const double each = ticks / static_cast<double>(elements);
    printf("%-6s %-40s %6.3f ns %6.2f cycles\n", setting, stage, each / per_nanosecond,
           each / per_cycle);
  }
};

void seen(const void* p) { asm volatile("" ::"r"(p) : "memory"); }

void mixup_stages(const Clock& clock) {
  constexpr int64_t B = 2, C = 3, kSide = 224, kElements = B * C * kSide * kSide;
  std::mt19937 random(1);
  std::vector<uint8_t> images(kElements);
  std::vector<float> out(kElements + kLanes);
  for (uint8_t& x : images) x = static_cast<uint8_t>(random());
  const int64_t partner[B] = {1, 0};
  const float lam[B] = {0.3f, 0.6f};
  int64_t rng[3] = {1, 0, 0};
  GaussianMixupArgs args{};
  args.image_dtype = Dtype::kUInt8, args.out_dtype = Dtype::kFloat32;
  args.images = images.data(), args.rng_state = rng;
  void* aligned = out.data();  // as an allocator of tensors does
  size_t room = sizeof(float) * out.size();
  args.out = std::align(kVectorBytes, sizeof(float) * kElements, aligned, room);
  args.batch = B, args.channels = C, args.height = args.width = kSide, args.pixel_scale = 1 / 255.0;
  args.stride[0] = C * kSide * kSide, args.stride[1] = 1, args.stride[2] = C * kSide;
  args.stride[3] = C;
  for (int64_t c = 0; c < C; ++c) args.mean[c] = 0.5, args.inv_std[c] = 4, args.sigma[c] = 0.1;
  const auto print = [&](const char* stage, auto body) {
    const auto run = [&](int64_t offset) {
      rng[1] = offset;
      body();
    };
    clock.print("mixup", stage, least_ticks(run), kElements);
  };
  const int64_t chunks = B * mixup_chunks_per_image(kSide * kSide);
  for (const bool mixes : {true, false}) {
    args.partner = mixes ? partner : nullptr, args.lam = lam, args.lam_stride = 1;
    for (const bool noise : {true, false}) {
      args.noise = noise;
      const char* names[2][2] = {{"neither", "noise alone"}, {"Mixup alone", "noise and Mixup"}};
      print(names[mixes][noise], [&] { gaussian_mixup_chunks(args, 0, chunks); });
    }
  }
  const PhiloxDraw draw(PhiloxCall(rng, 1), Stream::kImageNoise, 0, 0);
  print("  words", [&] {
    for (int64_t i = 0; i < kElements; i += kStep) {
      Words words[4][kStepGroups];
      draw.fours(i, words);
      seen(words);
    }
  });
  Words words[4][kStepGroups];
  draw.fours(0, words);
  print("  normals of words", [&] {
    for (int64_t i = 0; i < kElements; i += kStep) {
      seen(words);
      Floats normal[kStepGroups][4];
      for (int group = 0; group < kStepGroups; ++group) group_normals(words, group, normal[group]);
      seen(normal);
    }
  });
}

void loss_stages(const Clock& clock) {
  constexpr int64_t B = 256, K = 1000, together = kSpan / K;
  std::mt19937 random(1);
  std::vector<float> logits(B * K), beta(K), gradient(B * K), stats(B * kRowStats), grad_beta(K),
      lam(B);
  std::vector<int64_t> labels(B), partners(B);
  for (float& x : logits) x = std::normal_distribution<float>()(random);
  for (float& x : beta) x = std::uniform_real_distribution<float>()(random);
  for (int64_t& x : labels) x = static_cast<int64_t>(random() % K);
  for (int64_t& x : partners) x = static_cast<int64_t>(random() % K);
  for (float& x : lam) x = std::uniform_real_distribution<float>()(random);
  int64_t rng[3] = {1, 0, 0};
  SproutLossArgs args{};
  args.logits = logits.data(), args.labels = labels.data();
  args.partner_labels = partners.data(), args.lam = lam.data(), args.lam_stride = 1;
  args.beta = beta.data(), args.rng_state = rng, args.row_stats = stats.data();
  args.grad_logits = gradient.data(), args.batch = B, args.classes = K;
  args.dtype = Dtype::kFloat32, args.reduction = Reduction::kMean;
  args.wants_grad_beta = args.wants_mean = true;
  const AlignedArray<float> base = aligned_zeros<float>(sprout_loss_base(K));
  const AlignedArray<float> scratch = aligned_zeros<float>(sprout_loss_scratch(args));
  static Variates<float> variates;
  for (const bool paper : {true, false}) {
    args.alpha = paper ? 0.01 : 1 / 11.0, args.scale = paper ? 1 : 11;
    for (int64_t k = 0; k < K; ++k) base[k] = static_cast<float>(args.scale * args.alpha) * beta[k];
    sprout_loss_prepare(args, base.get());
    const auto print = [&](const char* stage, auto body) {
      const auto run = [&](int64_t offset) {
        rng[1] = offset;  // so that no branch predictor can learn the samples
        body(PhiloxCall(rng, K));
      };
      clock.print(paper ? "paper" : "code", stage, least_ticks(run), B * K);
    };
    const auto rows = [&](const char* stage, LabelMode mode, BetaGrad grad) {
      args.label_mode = mode, args.beta_grad = grad;
      print(stage, [&](const PhiloxCall&) {
        sprout_loss_rows(args, 0, B, base.get(), scratch.get(), grad_beta.data());
      });
    };
    rows("all, implicit", LabelMode::kSample, BetaGrad::kImplicit);
    rows("all, expected", LabelMode::kSample, BetaGrad::kExpected);
    rows("loss and gradients without a draw", LabelMode::kMean, BetaGrad::kExpected);
    print("drawing", [&](const PhiloxCall& call) {
      for (int64_t row = 0; row < B; row += together) {
        draw_rows(args, call, row, row + together, base.get(), variates);
      }
    });
    const GammaRow<float> shapes = label_row<float>(args, 0, base.get(), nullptr).base;
    if (paper) {
      print("  of these, if nothing is wanted", [&](const PhiloxCall& call) {
        for (SpanRow<float>& of_row : variates.of_row) of_row = {1e30f};
        for (int64_t row = 0; row < B; row += together) {
          log_gamma_span(call, row * K, together, K, shapes, variates.of_row, variates.log_g,
                         variates.list);
        }
      });
    }
    print("  words of the boosts", [&](const PhiloxCall& call) {
      static uint32_t words[kSpan + kBoosts];
      for (int64_t row = 0; row < B; row += together) {
        const PhiloxDraw draw(call, Stream::kGamma, kGammaBoostDraw, row * K);
        fill_boost_words(draw, row * K, together * K, words);
        seen(words);
      }
    });
    static uint32_t words[kSpan + kBoosts];
    static float log_g[kSpan];
    print("  per variate, in whole blocks", [&](const PhiloxCall& call) {
      const PhiloxDraw draw(call, Stream::kGamma, 0, 0);
      int32_t accepted[kAttempts];
      for (int64_t i = 0; i < B * K; i += kAttempts) {
        attempt_block(draw, i, shapes.from(i % 896), words, log_g, accepted);
        seen(accepted);
      }
    });
    print("  per variate, in a list", [&](const PhiloxCall& call) {
      const PhiloxDraw draw(call, Stream::kGamma, 0, 0);
      static Place place[kAttempts];
      static float a[kAttempts];
      int32_t accepted[kAttempts];
      for (int i = 0; i < kAttempts; ++i) {
        place[i] = place_of(15 * i, 15 * i);
        a[i] = shapes.a[15 * i];
      }
      for (int64_t i = 0; i < B * K; i += kAttempts) {
        attempt_each(draw, i, kAttempts, place, a, words, log_g, accepted);
        seen(accepted);
      }
    });
  }
}

}  // namespace

int main() {
  const Clock clock;
  mixup_stages(clock);
  loss_stages(clock);
}
