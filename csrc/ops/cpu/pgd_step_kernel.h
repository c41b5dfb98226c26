#pragma once

#include "../pgd_step_args.h"
#include "isa.h"

// Elements [begin, end), counted in the order of the nest of loops.
SPROUT_DECLARE_KERNEL(pgd_step_elements, const PgdStepArgs& args, int64_t begin, int64_t end)
