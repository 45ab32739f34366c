import Base
import CGnuTLS
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
  var records = RecordBoundary()
  /// The longest record that the peer takes, as it said (RFC 8449, where TLS 1.3 counts the type of
  /// what is in it as a byte; or RFC 6066, section 4).
  var recordLimit = Int.max

  init(incoming: UnsafeMutableRawPointer, outgoing: UnsafeMutableRawPointer) {
    self.incoming = incoming
    self.outgoing = outgoing
  }

  mutating func empty() {
    start = 0
    end = 0
    outgoingCount = 0
    records = RecordBoundary()
    recordLimit = .max
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

  /// So many bytes were received into `room`.
  mutating func received(_ count: Int) {
    records.advance(UnsafeRawBufferPointer(start: incoming + end, count: count))
    end += count
  }

  /// Learns from a client's hello how long records may be.
  static func read(hello: UnsafePointer<gnutls_datum_t>?, _ buffers: UnsafeMutableRawPointer?) {
    let flags = UInt32(GNUTLS_EXT_RAW_FLAG_TLS_CLIENT_HELLO)
    gnutls_ext_raw_parse(
      buffers,
      { buffers, kind, data, size in
        let buffers = buffers.unsafelyUnwrapped.assumingMemoryBound(to: TLSBuffers.self)
        let maxFragmentLength: UInt32 = 1, recordSizeLimit: UInt32 = 28
        if kind == recordSizeLimit, size == 2, let data {
          buffers.pointee.recordLimit = Int(data[0]) << 8 | Int(data[1])
        } else if kind == maxFragmentLength {
          buffers.pointee.recordLimit = min(buffers.pointee.recordLimit, 1 << 12)
        }
        return 0
      }, hello, flags)
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

/// Where records end in a stream of bytes: each has a header of 5 bytes, the last two its length
/// (RFC 8446, section 5.1).
struct RecordBoundary {
  private static let header = 5
  private var headerBytes = 0
  private var length = 0
  private var bodyLeft = 0

  /// Bytes that the record which has begun lacks, as far as its header is known: 0 between records.
  var missing: Int { headerBytes > 0 ? Self.header - headerBytes : bodyLeft }

  mutating func advance(_ bytes: UnsafeRawBufferPointer) {
    var at = 0
    while at < bytes.count {
      if bodyLeft > 0 {
        let part = min(bodyLeft, bytes.count - at)
        bodyLeft -= part
        at += part
        continue
      }
      headerBytes += 1
      if headerBytes >= Self.header - 1 { length = length << 8 | Int(bytes[at]) }
      if headerBytes == Self.header {
        bodyLeft = length
        length = 0
        headerBytes = 0
      }
      at += 1
    }
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
