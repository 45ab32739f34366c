internal import CURing
import Base
import Glibc

/// Memory the kernel holds pinned for this ring, cut into pieces of 1 GiB (its limit a buffer).
struct RegisteredRegion {
  let start: UInt
  let count: UInt
  /// The table's index of the first piece; the others follow.
  let firstBuffer: UInt32
}

/// Registered files and memory: what the kernel need not look up, count or pin per operation.
extension Ring {
  static var maximumRegions: Int { 16 }
  private static var pieceShift: UInt { 30 }

  mutating func registerTables(files: UInt32) {
    if io_uring_register_files_sparse(ring, files) == 0 {
      for i in 0..<Int(files) { freeFiles[i] = Int32(Int(files) - 1 - i) }
      freeFileCount = Int(files)
    } else {
      notes.append("The kernel refuses a table of registered files: using plain descriptors.")
    }
  }

  /// Installs an open file in the ring's table. The descriptor stays the caller's. When the table
  /// is full or missing the file works all the same, a little slower.
  package mutating func install(_ descriptor: Int32) -> RingFile {
    guard freeFileCount > 0 else { return RingFile(descriptor: descriptor) }
    let slot = freeFiles[freeFileCount - 1]
    var value = descriptor
    guard io_uring_register_files_update(ring, UInt32(slot), &value, 1) == 1 else {
      return RingFile(descriptor: descriptor)
    }
    freeFileCount -= 1
    return RingFile(descriptor: descriptor, slot: slot)
  }

  /// Takes a file out of the table. Operations in flight keep it open until they end; the
  /// descriptor is still the caller's to close.
  package mutating func remove(_ file: RingFile) {
    guard file.slot >= 0 else { return }
    var none: Int32 = -1
    let result = io_uring_register_files_update(ring, UInt32(file.slot), &none, 1)
    invariant(result == 1, "R3: a registered file can be removed")
    freeFiles[freeFileCount] = file.slot
    freeFileCount += 1
  }

  /// Pins `memory` and uses it for direct reads and writes that lie inside it. It begins on a page.
  /// When the kernel refuses (the limit of locked memory, as a rule), `notes` says so, the
  /// operations still work, and the result is false.
  @discardableResult
  package mutating func register(
    _ memory: UnsafeMutableRawBufferPointer, name: String
  ) -> Bool {
    guard let base = memory.baseAddress, memory.count > 0 else { return false }
    invariant(UInt(bitPattern: base) & 4095 == 0, "R6: a registered region begins on a page")
    guard regionCount < Ring.maximumRegions else {
      notes.append("Too many memory regions: \(name) is used without registration.")
      return false
    }
    if bufferCount == 0 {
      let result = io_uring_register_buffers_sparse(ring, bufferCapacity)
      guard result == 0 || result == -EBUSY else {
        notes.append("The kernel refuses registered memory (\(SystemError.text(result))).")
        return false
      }
    }
    Ring.raiseLockLimit()
    let pieces = (memory.count - 1) >> Int(Ring.pieceShift) + 1
    guard pieces <= Int(bufferCapacity - bufferCount) else {
      notes.append("The table of registered memory is full: \(name) is used without it.")
      return false
    }
    for piece in 0..<pieces {
      let start = piece << Int(Ring.pieceShift)
      let length = min(1 << Int(Ring.pieceShift), memory.count - start)
      let result = update(bufferCount + UInt32(piece), base + start, length)
      if result < 0 {
        for done in 0..<piece { _ = update(bufferCount + UInt32(done), nil, 0) }
        notes.append(refusal(name, memory.count, result))
        return false
      }
    }
    regions[regionCount] = RegisteredRegion(
      start: UInt(bitPattern: base), count: UInt(memory.count), firstBuffer: bufferCount)
    regionCount += 1
    bufferCount += UInt32(pieces)
    return true
  }

  /// Lets go of a region, before its memory is unmapped (R4). Its places in the table are not
  /// used again: regions come and go only a few times in a ring's life.
  package mutating func unregister(_ memory: UnsafeMutableRawBufferPointer) {
    for i in 0..<regionCount where regions[i].start == UInt(bitPattern: memory.baseAddress) {
      let region = regions[i]
      let pieces = (region.count - 1) >> Ring.pieceShift + 1
      for piece in 0..<UInt32(pieces) { _ = update(region.firstBuffer + piece, nil, 0) }
      regionCount -= 1
      regions[i] = regions[regionCount]
      return
    }
  }

  /// Lets go of all registered files and memory at once; nothing is in flight. Without it the
  /// kernel does so some time after the ring has gone, and a lock on a file lasts as long.
  mutating func releaseTables() {
    _ = io_uring_unregister_files(ring)
    _ = io_uring_unregister_buffers(ring)
    freeFileCount = 0
    regionCount = 0
    bufferCount = bufferCapacity
  }

  /// The registered buffer that holds all of `count` bytes at `memory`, or -1.
  func buffer(for memory: UnsafeMutableRawPointer, _ count: Int) -> Int32 {
    let address = UInt(bitPattern: memory)
    for i in 0..<regionCount {
      let offset = address &- regions[i].start
      if offset < regions[i].count {
        let piece = offset >> Ring.pieceShift
        let last = offset &+ UInt(bitPattern: count) &- 1
        guard last < regions[i].count, last >> Ring.pieceShift == piece else { return -1 }
        return Int32(regions[i].firstBuffer) + Int32(piece)
      }
    }
    return -1
  }

  private func update(_ index: UInt32, _ base: UnsafeMutableRawPointer?, _ count: Int) -> Int32 {
    var vector = iovec(iov_base: base, iov_len: count)
    var tag: UInt64 = 0
    return io_uring_register_buffers_update_tag(ring, index, &vector, &tag, 1)
  }

  private func refusal(_ name: String, _ count: Int, _ result: Int32) -> String {
    let size = "\(name) (\(count >> 20) MiB) is not registered with the kernel: "
    guard result == -ENOMEM else { return size + SystemError.text(result) + "." }
    return size + "the limit of locked memory is too low (LimitMEMLOCK, ulimit -l). "
      + "Plain direct I/O is used."
  }

  /// The soft limit of locked memory may be raised to the hard one by anybody.
  private static func raiseLockLimit() {
    let lockedMemory = __rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue)
    var limit = rlimit()
    guard getrlimit(lockedMemory, &limit) == 0, limit.rlim_cur < limit.rlim_max else { return }
    limit.rlim_cur = limit.rlim_max
    _ = setrlimit(lockedMemory, &limit)
  }
}
