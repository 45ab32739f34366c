import Glibc

/// Anonymous memory from the kernel: zero-filled, beginning on a page, given back at the end.
/// The server's arena lies in one.
package struct MemoryRegion: ~Copyable {
  package let base: UnsafeMutableRawPointer
  /// Bytes, whole pages.
  package let count: Int

  /// Maps `size` bytes, rounded up to pages, and counts them against the machine's memory at
  /// once (no `MAP_NORESERVE`). With `populated` every page is really there on return, so that the
  /// data path meets no page fault and an overfull machine is noticed at start; `hugePages` asks
  /// for transparent huge pages, which is a hint.
  package init(
    size: Int, populated: Bool = false, hugePages: Bool = false
  ) throws(SystemError) {
    let count = (max(size, 1) + 4095) & ~4095
    let map = mmap(
      nil, count, PROT_READ | PROT_WRITE, Int32(MAP_PRIVATE | MAP_ANONYMOUS), -1, 0)
    guard let map, map != MAP_FAILED else {
      throw SystemError.last("mmap", on: "\(count >> 20) MiB of memory")
    }
    if hugePages { _ = madvise(map, count, MemoryRegion.adviceHugePages) }
    // Asked for after the advice, so that huge pages are used from the first.
    if populated { MemoryRegion.touch(map, count) }
    base = map
    self.count = count
  }

  deinit { munmap(base, count) }

  package var bytes: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: base, count: count)
  }

  private static var adviceHugePages: Int32 { 14 }
  private static var advicePopulateWrite: Int32 { 23 }

  private static func touch(_ map: UnsafeMutableRawPointer, _ count: Int) {
    // MADV_POPULATE_WRITE is new in Linux 5.14; before it, each page is written once.
    if madvise(map, count, advicePopulateWrite) == 0 { return }
    for page in stride(from: 0, to: count, by: 4096) {
      map.storeBytes(of: 0, toByteOffset: page, as: UInt8.self)
    }
  }
}
