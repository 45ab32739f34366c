import Glibc
import RingIO
import Testing

/// Messages with descriptors between two processes: what is not a message leaves nothing open.
@Suite struct DescriptorChannelTests {
  /// Two ends of a socket, closed when dropped.
  private final class Pair {
    let ends: [Int32]

    init() throws {
      var ends: [Int32] = [-1, -1]
      try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
      self.ends = ends
    }

    deinit { ends.forEach { _ = Glibc.close($0) } }

    var receiver: DescriptorChannel { DescriptorChannel(ends[1], seconds: 1) }

    /// Sends these bytes with descriptors, as no channel would.
    func sendRaw(_ bytes: [UInt8], _ descriptors: [Int32]) {
      var bytes = bytes
      let size = 16 + (4 * descriptors.count + 7) / 8 * 8
      let control = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
      defer { control.deallocate() }
      control.storeBytes(of: 16 + 4 * descriptors.count, as: Int.self)
      control.storeBytes(of: SOL_SOCKET, toByteOffset: 8, as: Int32.self)
      control.storeBytes(of: Int32(SCM_RIGHTS), toByteOffset: 12, as: Int32.self)
      for (i, descriptor) in descriptors.enumerated() {
        control.storeBytes(of: descriptor, toByteOffset: 16 + 4 * i, as: Int32.self)
      }
      let count = bytes.withUnsafeMutableBytes { buffer in
        var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
        return withUnsafeMutablePointer(to: &vector) {
          var message = msghdr()
          message.msg_iov = $0
          message.msg_iovlen = 1
          message.msg_control = control
          message.msg_controllen = size
          return sendmsg(ends[0], &message, 0)
        }
      }
      #expect(count == bytes.count)
    }
  }

  /// A pipe whose writing end is sent away: when nobody has it open any more, the reading end ends.
  private struct Pipe {
    let reading: Int32
    let writing: Int32

    init() throws {
      var ends: [Int32] = [-1, -1]
      try #require(pipe(&ends) == 0)
      (reading, writing) = (ends[0], ends[1])
    }

    /// Closes both; tells whether somebody else has the writing end open.
    func isHeldElsewhere() -> Bool {
      close(writing)
      var file = pollfd(fd: reading, events: Int16(POLLIN), revents: 0)
      let isHeld = poll(&file, 1, 0) == 0
      close(reading)
      return isHeld
    }
  }

  private func frame(_ body: [UInt8], length: UInt32? = nil) -> [UInt8] {
    var bytes = withUnsafeBytes(of: DescriptorChannel.magic) { Array($0) }
    withUnsafeBytes(of: length ?? UInt32(body.count)) { bytes += $0 }
    return bytes + body
  }

  @Test func aMessageBringsItsDescriptor() throws {
    let pair = try Pair()
    let pipe = try Pipe()
    try DescriptorChannel(pair.ends[0], seconds: 1).send([1, 2, 3], pipe.writing)
    try DescriptorChannel(pair.ends[0], seconds: 1).send([])
    let first = try #require(try pair.receiver.receive())
    #expect(first.bytes == [1, 2, 3])
    let descriptor = try #require(first.descriptor)
    #expect(fcntl(descriptor, F_GETFD) & FD_CLOEXEC != 0)
    let second = try #require(try pair.receiver.receive())
    #expect(second.bytes.isEmpty && second.descriptor == nil)
    #expect(pipe.isHeldElsewhere())
    close(descriptor)
    shutdown(pair.ends[0], Int32(SHUT_WR))
    #expect(try pair.receiver.receive() == nil)
  }

  /// What goes wrong, and bytes that make it go wrong.
  @Test(arguments: ["magic", "length", "half a message", "half a header", "silence"])
  func whatIsNoMessageLeavesNothingOpen(_ mistake: String) throws {
    let pair = try Pair()
    let pipe = try Pipe()
    let bytes: [UInt8] =
      switch mistake {
      case "magic": [UInt8](repeating: 0x4f, count: 8)
      case "length": frame([], length: UInt32(DescriptorChannel.mostBytes) + 1)
      case "half a message", "silence": frame([1, 2], length: 3)
      default: Array(frame([]).prefix(5))
      }
    pair.sendRaw(bytes, [pipe.writing])
    if mistake.hasPrefix("half") { shutdown(pair.ends[0], Int32(SHUT_WR)) }
    if mistake == "half a header" {
      #expect(try pair.receiver.receive() == nil)
    } else {
      #expect(throws: SystemError.self) { try pair.receiver.receive() }
    }
    #expect(!pipe.isHeldElsewhere(), "\(mistake)")
  }

  /// There is room for one: what else comes is closed by the kernel, or here.
  @Test func oneDescriptorIsKept() throws {
    let pair = try Pair()
    let pipes = [try Pipe(), try Pipe(), try Pipe()]
    pair.sendRaw(Array(frame([7]).prefix(8)), [pipes[0].writing, pipes[1].writing])
    pair.sendRaw([7], [pipes[2].writing])
    let message = try #require(try pair.receiver.receive())
    #expect(message.bytes == [7])
    let descriptor = try #require(message.descriptor)
    #expect(!pipes[0].isHeldElsewhere() && !pipes[1].isHeldElsewhere())
    #expect(pipes[2].isHeldElsewhere())
    close(descriptor)
  }
}
