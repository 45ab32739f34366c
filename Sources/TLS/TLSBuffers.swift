import Base
import Glibc

/// The bytes between GnuTLS and the socket.
struct TLSBuffers {
  /// Two of the longest records, and what is left of one.
  static let incomingSize = 36 << 10
  /// Four of the longest records, or a flight of a handshake.
  static let outgoingSize = 100 << 10
  /// What 16 KiB may become: 256 of the smallest records that a peer may ask for (RFC 8449: 64
  /// bytes), each with its header, check and padding, and a change of keys.
  private static let mostAdded = 34 << 10

  let incoming: UnsafeMutableRawPointer
  var start = 0
  var end = 0
  let outgoing: UnsafeMutableRawPointer
  var outgoingCount = 0

  init(incoming: UnsafeMutableRawPointer, outgoing: UnsafeMutableRawPointer) {
    self.incoming = incoming
    self.outgoing = outgoing
  }

  mutating func empty() {
    start = 0
    end = 0
    outgoingCount = 0
  }

  var hasRoom: Bool { outgoingCount + Self.mostAdded <= Self.outgoingSize }

  /// Whether bytes are left, and some were consumed since `start` was at `before`.
  func hasMore(than before: Int) -> Bool { start > before && start < end }

  /// Room behind what is not consumed: GnuTLS takes all that it is given, so there is.
  mutating func room() -> UnsafeMutableRawBufferPointer {
    if start > 0 {
      incoming.copyMemory(from: incoming + start, byteCount: end - start)
      end -= start
      start = 0
    }
    return UnsafeMutableRawBufferPointer(start: incoming + end, count: Self.incomingSize - end)
  }

  /// GnuTLS wants bytes.
  static func pull(
    _ buffers: UnsafeMutableRawPointer?, _ target: UnsafeMutableRawPointer?, _ count: Int
  ) -> Int {
    let buffers = buffers.unsafelyUnwrapped.assumingMemoryBound(to: TLSBuffers.self)
    let there = min(count, buffers.pointee.end - buffers.pointee.start)
    guard there > 0, let target else {
      errno = EAGAIN
      return -1
    }
    target.copyMemory(from: buffers.pointee.incoming + buffers.pointee.start, byteCount: there)
    buffers.pointee.start += there
    return there
  }

  /// GnuTLS has bytes.
  static func push(
    _ buffers: UnsafeMutableRawPointer?, _ source: UnsafeRawPointer?, _ count: Int
  ) -> Int {
    let buffers = buffers.unsafelyUnwrapped.assumingMemoryBound(to: TLSBuffers.self)
    guard let source, buffers.pointee.outgoingCount + count <= outgoingSize else {
      errno = EAGAIN
      return -1
    }
    (buffers.pointee.outgoing + buffers.pointee.outgoingCount)
      .copyMemory(from: source, byteCount: count)
    buffers.pointee.outgoingCount += count
    return count
  }
}

/// Bytes in several places, consumed from the front. The list is the caller's, as `struct iovec`.
package struct TLSSource {
  private let list: UnsafeRawPointer?
  private let count: Int
  private var index = 0
  /// Bytes of the vector at `index` that are consumed.
  private var at = 0

  /// Nothing.
  package init() { self.init(vectors: nil, count: 0) }

  /// `count` pairs of an address and a length, in memory laid out as `struct iovec`.
  package init(vectors list: UnsafeRawPointer?, count: Int) {
    self.list = list
    self.count = count
  }

  private var vector: (base: UnsafeRawPointer, count: Int) {
    let place = list.unsafelyUnwrapped + 16 * index
    return (
      place.load(as: UnsafeRawPointer.self), place.load(fromByteOffset: 8, as: Int.self)
    )
  }

  package var isEmpty: Bool { index >= count }

  /// The next bytes, at most `most`: in their place when they are enough for a record, else joined
  /// with those that follow in `scratch`.
  mutating func next(
    _ scratch: UnsafeMutableRawPointer, _ most: Int
  ) -> (UnsafeRawPointer, Int) {
    let first = vector
    if first.count - at >= most {
      let bytes = first.base + at
      advance(most)
      return (bytes, most)
    }
    var filled = 0
    while filled < most && index < count {
      let next = vector
      let part = min(most - filled, next.count - at)
      if part > 0 { (scratch + filled).copyMemory(from: next.base + at, byteCount: part) }
      filled += part
      advance(part)
    }
    return (UnsafeRawPointer(scratch), filled)
  }

  private mutating func advance(_ bytes: Int) {
    at += bytes
    if at >= vector.count {
      index += 1
      at = 0
    }
  }
}
