#pragma once
/* C only where Swift cannot reach the kernel's interface: ioctls and macros.
 * Functions return 0 or a negative errno unless they say otherwise. */
#include <features.h>
#include <stdint.h>
#include <sys/socket.h>
/* struct sockaddr_vm, which the C library has not. */
#include <linux/vm_sockets.h>

/* Bytes of a block device (BLKGETSIZE64). */
int platform_device_size(int descriptor, uint64_t *size);
/* The least unit of I/O of a block device (BLKSSZGET). */
int platform_logical_block(int descriptor, uint32_t *size);
/* The unit a block device writes without tearing (BLKPBSZGET). */
int platform_physical_block(int descriptor, uint32_t *size);
/* What a file asks of direct I/O (statx, STATX_DIOALIGN, Linux 6.1): both 0 when direct I/O is not
 * possible. -ENODATA when the kernel or the filesystem does not say. */
int platform_direct_alignment(int descriptor, uint32_t *memory, uint32_t *offset);
/* Takes (exclusive != 0) or shares the advisory lock of the open file, without waiting. */
int platform_lock(int descriptor, int exclusive);

/* The flag of open for direct I/O (O_DIRECT). */
int platform_direct_flag(void);
/* The mode of fallocate that drops a range's content and keeps the file's size. */
int platform_punch_hole_mode(void);
/* Type of the filesystem that `path` lies on: 1 when its files live in memory (tmpfs, ramfs),
 * 0 when not. */
int platform_is_memory_filesystem(const char *path);
/* Splits a device number. */
void platform_split_device(uint64_t device, uint32_t *major_number, uint32_t *minor_number);

/* A new eventfd, close-on-exec, or a negative errno. */
int platform_event_descriptor(void);
/* Blocks `count` signals in the calling thread and returns a new signalfd for them, close-on-exec,
 * or a negative errno. */
int platform_signal_descriptor(const int *signals, uint32_t count);
