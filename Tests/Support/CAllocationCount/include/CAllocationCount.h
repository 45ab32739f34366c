#pragma once
#include <stdint.h>
/* Allocations (malloc, calloc, realloc, aligned) of the calling thread since it began; 0 for ever
 * under a sanitizer, which needs the allocator for itself. */
uint64_t allocation_count(void);
