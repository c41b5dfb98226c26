// Cycles per element of the stages of sprout_loss on CPU, on one thread and in cache: the minimum
// of many, which other processes disturb least. From the project's root, for AVX2
// (-DSPROUT_ISA=avx512 -mavx512f -mavx512dq -mavx512vl -mavx512bw -mprefer-vector-width=512 beside
// it for AVX-512):
//
//   g++ -std=gnu++17 -O3 -fno-math-errno -fno-trapping-math -fopenmp-simd -fno-thread-jumps -I .
//     -DSPROUT_ISA=avx2 -mavx2 -mfma -mf16c tests/benchmarks/stages.cpp -o /tmp/stages
#include <x86intrin.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

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

double ticks_per_cycle() {
  return least_ticks([](int64_t) {
           uint64_t x = 0;
           for (int i = 0; i < 100000; ++i) asm volatile("add $1, %0" : "+r"(x));
         }) /
         100000;  // one addition per cycle, since each waits for the previous one
}

void seen(const void* p) { asm volatile("" ::"r"(p) : "memory"); }

}  // namespace

int main() {
  constexpr int64_t B = 256, K = 1000, together = kSpan / K;
  const double ticks = ticks_per_cycle();
  std::mt19937 random(1);
  std::vector<float> logits(B * K), beta(K), gradient(B * K), stats(B * kRowStats), grad_beta(K);
  std::vector<int64_t> labels(B);
  for (float& x : logits) x = std::normal_distribution<float>()(random);
  for (float& x : beta) x = std::uniform_real_distribution<float>()(random);
  for (int64_t& x : labels) x = static_cast<int64_t>(random() % K);
  int64_t rng[3] = {1, 0, 0};
  SproutLossArgs args{};
  args.logits = logits.data(), args.labels = args.partner_labels = labels.data();
  args.beta = beta.data(), args.rng_state = rng, args.row_stats = stats.data();
  args.grad_logits = gradient.data(), args.batch = B, args.classes = K;
  args.dtype = Dtype::kFloat32, args.reduction = Reduction::kMean;
  args.wants_grad_beta = args.wants_mean = true;
  std::vector<float> base(sprout_loss_base(K)), scratch(sprout_loss_scratch(args));
  static Variates<float> variates;
  for (const bool paper : {true, false}) {
    args.alpha = paper ? 0.01 : 1 / 11.0, args.scale = paper ? 1 : 11;
    for (int64_t k = 0; k < K; ++k) base[k] = static_cast<float>(args.scale * args.alpha) * beta[k];
    sprout_loss_prepare(args, base.data());
    const auto print = [&](const char* stage, auto body) {
      const auto run = [&](int64_t offset) {
        rng[1] = offset;  // so that no branch predictor can learn the samples
        body(PhiloxCall(rng, K));
      };
      printf("%-6s %-40s %6.2f\n", paper ? "paper" : "code", stage,
             least_ticks(run) / ticks / (B * K));
    };
    const auto rows = [&](const char* stage, LabelMode mode, BetaGrad grad) {
      args.label_mode = mode, args.beta_grad = grad;
      print(stage, [&](const PhiloxCall&) {
        sprout_loss_rows(args, 0, B, base.data(), scratch.data(), grad_beta.data());
      });
    };
    rows("all, implicit", LabelMode::kSample, BetaGrad::kImplicit);
    rows("all, expected", LabelMode::kSample, BetaGrad::kExpected);
    rows("loss and gradients without a draw", LabelMode::kMean, BetaGrad::kExpected);
    print("drawing", [&](const PhiloxCall& call) {
      for (int64_t row = 0; row < B; row += together) {
        draw_rows(args, call, row, row + together, base.data(), variates);
      }
    });
    print("  words of the boosts", [&](const PhiloxCall& call) {
      static uint32_t words[kSpan + kBoosts];
      for (int64_t row = 0; row < B; row += together) {
        const PhiloxDraw draw(call, Stream::kGamma, kGammaBoostDraw, row * K);
        fill_boost_words(draw, row * K, together * K, words);
        seen(words);
      }
    });
    print("  variates of the labels", [&](const PhiloxCall& call) {
      for (int64_t row = 0; row < B; ++row) {
        const Row<float> r = label_row<float>(args, row, base.data(), nullptr);
        const LabelVariates<float> drawn(call, row * K, r);
        seen(&drawn);
      }
    });
    const GammaRow<float> shapes = label_row<float>(args, 0, base.data(), nullptr).base;
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
      static Listed list, rejected;
      for (int i = 0; i < kAttempts; ++i) list.in_row[i] = list.in_span[i] = 15 * i;
      for (int64_t i = 0; i < B * K; i += kAttempts) {
        rejected.count = 0;
        attempt_waiting(draw, i, shapes.a, words, list, 0, kAttempts, log_g, rejected);
        seen(&rejected);
      }
    });
  }
}
