import Glibc

/// Messages with open files, between two processes on a unix socket: each is bytes and at most one
/// descriptor (unix(7), `SCM_RIGHTS`). Calls block, up to the time limit.
package struct DescriptorChannel: Sendable {
  package let socket: Int32
  /// "THHO": the first word of a message; the second is its length. Both in native order.
  package static var magic: UInt32 { 0x4f48_4854 }
  /// The longest message.
  package static var mostBytes: Int { 1 << 20 }
  /// One header and one descriptor, as `struct cmsghdr` has them on 64-bit Linux.
  private static var controlSize: Int { 24 }

  /// Seconds that a message may take to be sent: what is sent is little.
  private static var sendPatience: Int { 10 }

  /// Uses a connected socket, which stays the caller's to close. A message is waited for so many
  /// seconds.
  package init(_ socket: Int32, seconds: Int) {
    self.socket = socket
    var limit = timeval(tv_sec: seconds, tv_usec: 0)
    let size = socklen_t(MemoryLayout<timeval>.size)
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, size)
    limit.tv_sec = min(seconds, Self.sendPatience)
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, size)
  }

  /// The number of the process at the other end; 0 when the kernel does not know.
  package var peerProcess: Int32 { Socket.peerProcess(socket) ?? 0 }

  /// Whether a message, or the end, is there within so many seconds.
  package func hasMessage(seconds: Int32 = 1) -> Bool {
    var file = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
    return poll(&file, 1, 1000 * seconds) > 0
  }

  /// Sends one message; the descriptor stays the caller's.
  package func send(_ bytes: [UInt8], _ descriptor: Int32? = nil) throws(SystemError) {
    let length = UInt32(bytes.count)
    var frame = withUnsafeBytes(of: Self.magic) { Array($0) }
    withUnsafeBytes(of: length) { frame += $0 }
    frame += bytes
    var sent = 0
    while sent < frame.count {
      let count = transfer(&frame, from: sent) { message, control in
        guard sent == 0, let descriptor else { return sendmsg(socket, &message, noSignal) }
        control.storeBytes(of: 20, as: Int.self)
        control.storeBytes(of: SOL_SOCKET, toByteOffset: 8, as: Int32.self)
        control.storeBytes(of: Int32(SCM_RIGHTS), toByteOffset: 12, as: Int32.self)
        control.storeBytes(of: descriptor, toByteOffset: 16, as: Int32.self)
        message.msg_control = control
        message.msg_controllen = Self.controlSize
        return sendmsg(socket, &message, noSignal)
      }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { throw .last("sendmsg") }
      sent += count
    }
  }

  /// Receives one message, and the descriptor that came with it, closed on exec; nil at the end.
  /// A descriptor that came with anything else is closed.
  package func receive() throws(SystemError) -> (bytes: [UInt8], descriptor: Int32?)? {
    var descriptor: Int32? = nil
    do throws(SystemError) {
      if let bytes = try receiveBytes(&descriptor) { return (bytes, descriptor) }
    } catch {
      if let descriptor { Glibc.close(descriptor) }
      throw error
    }
    if let descriptor { Glibc.close(descriptor) }
    return nil
  }

  private func receiveBytes(_ descriptor: inout Int32?) throws(SystemError) -> [UInt8]? {
    var header = [UInt8](repeating: 0, count: 8)
    guard try fill(&header, &descriptor) else { return nil }
    let magic = header.withUnsafeBytes { $0.load(as: UInt32.self) }
    let length = Int(header.withUnsafeBytes { $0.load(fromByteOffset: 4, as: UInt32.self) })
    guard magic == Self.magic, length <= Self.mostBytes else {
      throw SystemError("recvmsg", code: EPROTO)
    }
    var bytes = [UInt8](repeating: 0, count: length)
    guard try fill(&bytes, &descriptor) else { throw SystemError("recvmsg", code: EPROTO) }
    return bytes
  }

  /// False at the end of the stream.
  private func fill(
    _ bytes: inout [UInt8], _ descriptor: inout Int32?
  ) throws(SystemError) -> Bool {
    var filled = 0
    while filled < bytes.count {
      var found: Int32? = nil
      let count = transfer(&bytes, from: filled) { message, control in
        message.msg_control = control
        // Room for one descriptor and no more.
        message.msg_controllen = 20
        let count = recvmsg(socket, &message, Int32(MSG_CMSG_CLOEXEC))
        let isRights = control.load(fromByteOffset: 12, as: Int32.self) == SCM_RIGHTS
        if count > 0, message.msg_controllen >= 20, isRights {
          found = control.load(fromByteOffset: 16, as: Int32.self)
        }
        return count
      }
      if let found {
        if let descriptor { Glibc.close(descriptor) }
        descriptor = found
      }
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else { throw .last("recvmsg") }
      if count == 0 { return false }
      filled += count
    }
    return true
  }

  /// Calls `body` with a message over the rest of `bytes`, and memory for a descriptor.
  private func transfer(
    _ bytes: inout [UInt8], from start: Int,
    _ body: (inout msghdr, UnsafeMutableRawPointer) -> Int
  ) -> Int {
    var control = InlineArray<3, UInt64>(repeating: 0)
    var span = control.mutableSpan
    return bytes.withUnsafeMutableBytes { buffer in
      span.withUnsafeMutableBufferPointer { control in
        var vector = iovec(
          iov_base: buffer.baseAddress.unsafelyUnwrapped + start, iov_len: buffer.count - start)
        return withUnsafeMutablePointer(to: &vector) {
          var message = msghdr()
          message.msg_iov = $0
          message.msg_iovlen = 1
          return body(&message, UnsafeMutableRawPointer(control.baseAddress.unsafelyUnwrapped))
        }
      }
    }
  }

  private var noSignal: Int32 { Int32(MSG_NOSIGNAL) }
}
