#define _GNU_SOURCE
#include "CPlatform.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

int platform_device_size(int descriptor, uint64_t *size) {
  return ioctl(descriptor, BLKGETSIZE64, size) < 0 ? -errno : 0;
}

int platform_logical_block(int descriptor, uint32_t *size) {
  int value = 0;
  if (ioctl(descriptor, BLKSSZGET, &value) < 0) return -errno;
  *size = (uint32_t)value;
  return 0;
}

int platform_physical_block(int descriptor, uint32_t *size) {
  unsigned value = 0;
  if (ioctl(descriptor, BLKPBSZGET, &value) < 0) return -errno;
  *size = value;
  return 0;
}

int platform_direct_alignment(int descriptor, uint32_t *memory, uint32_t *offset) {
#ifdef STATX_DIOALIGN
  struct statx facts;
  memset(&facts, 0, sizeof facts);
  if (syscall(SYS_statx, descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) < 0)
    return -errno;
  if (!(facts.stx_mask & STATX_DIOALIGN)) return -ENODATA;
  *memory = facts.stx_dio_mem_align;
  *offset = facts.stx_dio_offset_align;
  return 0;
#else
  (void)descriptor, (void)memory, (void)offset;
  return -ENODATA;
#endif
}

int platform_lock(int descriptor, int exclusive) {
  int kind = exclusive ? LOCK_EX : LOCK_SH;
  return flock(descriptor, kind | LOCK_NB) < 0 ? -errno : 0;
}

int platform_direct_flag(void) { return O_DIRECT; }

int platform_punch_hole_mode(void) { return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE; }

int platform_is_memory_filesystem(const char *path) {
  struct statfs facts;
  if (statfs(path, &facts) < 0) return -errno;
  return facts.f_type == TMPFS_MAGIC || facts.f_type == RAMFS_MAGIC;
}

void platform_split_device(uint64_t device, uint32_t *major_number, uint32_t *minor_number) {
  *major_number = major(device);
  *minor_number = minor(device);
}

int platform_event_descriptor(void) {
  int descriptor = eventfd(0, EFD_CLOEXEC);
  return descriptor < 0 ? -errno : descriptor;
}

int platform_signal_descriptor(const int *signals, uint32_t count) {
  sigset_t set;
  sigemptyset(&set);
  for (uint32_t i = 0; i < count; i++) sigaddset(&set, signals[i]);
  int code = pthread_sigmask(SIG_BLOCK, &set, NULL);
  if (code != 0) return -code;
  int descriptor = signalfd(-1, &set, SFD_CLOEXEC);
  return descriptor < 0 ? -errno : descriptor;
}
