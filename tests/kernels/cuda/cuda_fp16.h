#include "cuda_on_cpu.h"  // stands in for NVIDIA's header of this name
