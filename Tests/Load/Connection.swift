import CLibNBD
import Glibc

/// What went wrong with a server or a connection, as a sentence.
struct LoadError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// One request in flight: a buffer, and where its outcome is put by libnbd's callback.
final class Slot {
  enum Kind { case read, write, zero, trim, flush }

  let buffer: UnsafeMutableRawPointer
  let floors: UnsafeMutablePointer<Floor>
  var kind = Kind.read
  var range = 0..<0
  var isBusy = false
  /// Set by the callback.
  var isDone = false
  var error: CInt = 0

  init(bytes: Int) {
    buffer = .allocate(byteCount: bytes, alignment: 4096)
    floors = .allocate(capacity: bytes / Pattern.sectorBytes)
  }

  // SAFETY: a slot outlives its connection, and a closed connection has no request in flight.
  deinit {
    buffer.deallocate()
    floors.deallocate()
  }
}

/// One connection of libnbd, driven by `poll`.
final class Connection {
  private let handle: OpaquePointer
  let slots: [Slot]
  let size: Int64
  let canTrim: Bool
  let canZero: Bool
  let canFlush: Bool

  /// Connects; throws when the server is not there.
  init(uri: String, depth: Int, bytes: Int) throws(LoadError) {
    guard let handle = nbd_create() else { throw LoadError(Self.reason) }
    // For certificates and keys that the address names.
    nbd_set_uri_allow_local_file(handle, true)
    guard nbd_connect_uri(handle, uri) == 0 else {
      let reason = Self.reason
      nbd_close(handle)
      throw LoadError(reason)
    }
    self.handle = handle
    size = nbd_get_size(handle)
    canTrim = nbd_can_trim(handle) == 1
    canZero = nbd_can_zero(handle) == 1
    canFlush = nbd_can_flush(handle) == 1
    slots = (0..<depth).map { _ in Slot(bytes: bytes) }
  }

  deinit { nbd_close(handle) }

  private static var reason: String {
    nbd_get_error().map { String(cString: $0) } ?? "unknown error of libnbd"
  }

  var isAlive: Bool { nbd_aio_is_dead(handle) == 0 && nbd_aio_is_closed(handle) == 0 }
  var descriptor: CInt { nbd_aio_get_fd(handle) }

  /// Sends the slot's request; false when the connection did not take it.
  func send(_ slot: Slot, offset: UInt64, flags: UInt32 = 0) -> Bool {
    slot.isBusy = true
    slot.isDone = false
    slot.error = 0
    // SAFETY: the slot is alive until the callback has run: `slots` holds it, and closing the
    // connection runs the callbacks of what is left.
    let callback = nbd_completion_callback(
      callback: { data, error in
        let slot = Unmanaged<Slot>.fromOpaque(data!).takeUnretainedValue()
        slot.error = error!.pointee
        slot.isDone = true
        return 1
      },
      user_data: Unmanaged.passUnretained(slot).toOpaque(), free: nil)
    let count = slot.range.count * Pattern.sectorBytes
    let cookie: Int64
    switch slot.kind {
    case .read: cookie = nbd_aio_pread(handle, slot.buffer, count, offset, callback, flags)
    case .write: cookie = nbd_aio_pwrite(handle, slot.buffer, count, offset, callback, flags)
    case .zero: cookie = nbd_aio_zero(handle, UInt64(count), offset, callback, flags)
    case .trim: cookie = nbd_aio_trim(handle, UInt64(count), offset, callback, flags)
    case .flush: cookie = nbd_aio_flush(handle, callback, flags)
    }
    if cookie < 0 {
      slot.isDone = true
      slot.error = nbd_get_errno()
      return false
    }
    return true
  }

  /// What to wait for on the descriptor.
  var events: Int16 {
    let direction = UInt32(nbd_aio_get_direction(handle))
    var events: Int16 = 0
    if direction & UInt32(LIBNBD_AIO_DIRECTION_READ) != 0 { events |= Int16(POLLIN) }
    if direction & UInt32(LIBNBD_AIO_DIRECTION_WRITE) != 0 { events |= Int16(POLLOUT) }
    return events
  }

  func notify(_ events: Int16) {
    if events & Int16(POLLIN | POLLHUP) != 0 {
      _ = nbd_aio_notify_read(handle)
    } else if events & Int16(POLLOUT) != 0 {
      _ = nbd_aio_notify_write(handle)
    } else if events & Int16(POLLERR) != 0 {
      _ = nbd_aio_notify_read(handle)
    }
  }

  func disconnect() { _ = nbd_shutdown(handle, 0) }
}
