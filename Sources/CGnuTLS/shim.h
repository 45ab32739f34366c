#pragma once
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

/* gnutls_free is a variable that holds a function: Swift will not read it. */
static inline void gnutls_release(void *memory) { gnutls_free(memory); }

/* What the kernel wants to know of a session, to go on with it. */
#include <linux/tls.h>
