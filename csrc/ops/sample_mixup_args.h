// Arguments of sample_mixup's kernels, the same on every device.
#pragma once

#include "../common/mixup.h"

namespace sprout_fast {

struct SampleMixupArgs {
  const int64_t* rng_state;  // (seed, offset, first_row), or (seed, offset) with first_row
  const int64_t* first_row;
  int64_t* partner;  // [batch]
  float* lam;        // [lams]
  int64_t batch, lams;
  bool per_sample;
  float mixup_alpha;
  // Of sample_mixup_, else null:
  const int64_t* labels;    // [batch]
  int64_t* partner_labels;  // [batch]
  int64_t* rng;             // rng_state, to be advanced
  int64_t* used_rng;        // [3] what it was
};

// What all entries share: the numbers of the call, and the shift to the partner.
struct SampleMixupDraw {
  PhiloxCall call;
  int64_t shift;
  SPROUT_HOST_DEVICE explicit SampleMixupDraw(const SampleMixupArgs& args)
      : call(args.rng_state, 1, args.first_row), shift(mixup_shift(args.batch, call)) {}
};

// Computes entry i of both outputs. A single lam is the same on every rank (index 0); with
// per_sample, lam is indexed from the rank's first row. Each rank draws its own shift.
SPROUT_HOST_DEVICE void sample_mixup_entry(const SampleMixupArgs& args, const SampleMixupDraw& draw,
                                           int64_t i) {
  const PhiloxCall& call = draw.call;
  if (i < args.lams) {
    args.lam[i] = mixup_lam(args.mixup_alpha, call, args.per_sample ? call.first_element + i : 0);
  }
  if (i >= args.batch) return;
  const int64_t shifted = i + draw.shift;
  const int64_t partner = shifted < args.batch ? shifted : shifted - args.batch;
  args.partner[i] = partner;
  if (args.labels != nullptr) args.partner_labels[i] = args.labels[partner];
}

}  // namespace sprout_fast
