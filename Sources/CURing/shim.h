#pragma once
#include <features.h> /* Must precede liburing.h, which sets feature macros of its own. */
#include <liburing.h>
