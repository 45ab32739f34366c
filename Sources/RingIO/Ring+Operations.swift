internal import CPlatform
internal import CURing
import Glibc

/// Operations on files: prepared here, handed to the kernel by the next submission.
extension Ring {
  /// Does nothing and completes with 0.
  package mutating func nothing(_ tag: OperationTag) {
    let entry = entry()
    io_uring_prep_nop(entry)
    entry.pointee.user_data = tag.rawValue
  }

  /// Reads up to `count` bytes at `offset` of a seekable file into `memory`.
  package mutating func read(
    _ file: RingFile, _ memory: UnsafeMutableRawPointer, _ count: Int, at offset: UInt64,
    _ tag: OperationTag
  ) {
    let buffer = buffer(for: memory, count)
    let entry = entry()
    if buffer >= 0 {
      io_uring_prep_read_fixed(entry, file.number, memory, UInt32(count), offset, buffer)
    } else {
      io_uring_prep_read(entry, file.number, memory, UInt32(count), offset)
    }
    finish(entry, file, tag)
  }

  /// Writes up to `count` bytes at `offset`; with `durable` they survive power loss when the
  /// operation completes (`RWF_DSYNC`).
  package mutating func write(
    _ file: RingFile, _ memory: UnsafeMutableRawPointer, _ count: Int, at offset: UInt64,
    durable: Bool = false, _ tag: OperationTag
  ) {
    let buffer = buffer(for: memory, count)
    let entry = entry()
    if buffer >= 0 {
      io_uring_prep_write_fixed(entry, file.number, memory, UInt32(count), offset, buffer)
    } else {
      io_uring_prep_write(entry, file.number, memory, UInt32(count), offset)
    }
    if durable { entry.pointee.rw_flags = Int32(RWF_DSYNC) }
    finish(entry, file, tag)
  }

  /// Makes durable what had completed before (`fdatasync`).
  package mutating func flush(_ file: RingFile, _ tag: OperationTag) {
    let entry = entry()
    io_uring_prep_fsync(entry, file.number, UInt32(IORING_FSYNC_DATASYNC))
    finish(entry, file, tag)
  }

  /// Drops the range's content without changing the file's size (`fallocate`, punch hole).
  package mutating func punchHole(
    _ file: RingFile, at offset: UInt64, _ count: Int, _ tag: OperationTag
  ) {
    let entry = entry()
    let mode = platform_punch_hole_mode()
    io_uring_prep_fallocate(entry, file.number, mode, Int(offset), count)
    finish(entry, file, tag)
  }

  /// Reads from a descriptor without a position: an eventfd, a signalfd.
  package mutating func readEvent(
    _ file: RingFile, _ memory: UnsafeMutableRawPointer, _ count: Int, _ tag: OperationTag
  ) {
    let entry = entry()
    io_uring_prep_read(entry, file.number, memory, UInt32(count), UInt64.max)
    finish(entry, file, tag)
  }

  func finish(
    _ entry: UnsafeMutablePointer<io_uring_sqe>, _ file: RingFile, _ tag: OperationTag
  ) {
    if file.isInstalled { entry.pointee.flags |= 1 << UInt8(IOSQE_FIXED_FILE_BIT) }
    entry.pointee.user_data = tag.rawValue
  }
}

/// Operations on sockets. Results are those of the system calls; memory, message headers and
/// vectors are the caller's and live until the completion (R2).
extension Ring {
  /// Accepts connections: each completion's result is a new descriptor (close-on-exec, blocking).
  /// While `hasMore` is set the operation stays armed; when it is not, arm it again.
  package mutating func accept(_ listener: RingFile, _ tag: OperationTag) {
    let entry = entry()
    let flags = Int32(SOCK_CLOEXEC.rawValue)
    if hasMultishotAccept {
      io_uring_prep_multishot_accept(entry, listener.number, nil, nil, flags)
    } else {
      io_uring_prep_accept(entry, listener.number, nil, nil, flags)
    }
    finish(entry, listener, tag)
  }

  /// Receives up to `count` bytes; with `all` the kernel waits for all of them (short at the end
  /// of the stream). A result of 0 is the end of the stream.
  package mutating func receive(
    _ file: RingFile, _ memory: UnsafeMutableRawPointer, _ count: Int, all: Bool = false,
    _ tag: OperationTag
  ) {
    let entry = entry()
    let flags = all ? Int32(MSG_WAITALL) : 0
    io_uring_prep_recv(entry, file.number, memory, count, flags)
    finish(entry, file, tag)
  }

  /// Sends `count` bytes; short only when the connection breaks.
  package mutating func send(
    _ file: RingFile, _ memory: UnsafeRawPointer, _ count: Int, _ tag: OperationTag
  ) {
    let entry = entry()
    let flags = Int32(MSG_NOSIGNAL | MSG_WAITALL)
    io_uring_prep_send(entry, file.number, memory, count, flags)
    finish(entry, file, tag)
  }

  /// Sends `count` vectors in one call; short only when the connection breaks, or when it need not
  /// be `whole` (the kernel's TLS refuses to be asked for that). Header and vectors are the
  /// caller's, one header for each send in flight; a batch larger than `SendVector.limit` is
  /// refused by the kernel.
  package mutating func sendMessage(
    _ file: RingFile, _ header: UnsafeMutablePointer<SendHeader>,
    _ vectors: UnsafeMutablePointer<SendVector>, _ count: Int, whole: Bool = true,
    _ tag: OperationTag
  ) {
    // SAFETY: SendVector is laid out as iovec, and SendHeader holds nothing but the msghdr; both
    // stay in place until the completion (R2).
    let message = UnsafeMutableRawPointer(header).assumingMemoryBound(to: msghdr.self)
    message.pointee.msg_iov = UnsafeMutableRawPointer(vectors).assumingMemoryBound(to: iovec.self)
    message.pointee.msg_iovlen = count
    let entry = entry()
    let flags = MSG_NOSIGNAL | (whole ? MSG_WAITALL : 0)
    io_uring_prep_sendmsg(entry, file.number, message, UInt32(flags))
    finish(entry, file, tag)
  }

  /// The event of `poll` that the peer has hung up, or ended its direction (`POLLRDHUP`).
  package static var hangUp: Int32 { 0x2000 }

  /// Completes once when one of `events` (`POLLIN`, `hangUp`, …) holds; the result is the set of
  /// those that do. Waiting for `hangUp` alone tells it before buffered bytes are read.
  package mutating func poll(_ file: RingFile, events: Int32, _ tag: OperationTag) {
    let entry = entry()
    io_uring_prep_poll_add(entry, file.number, UInt32(bitPattern: events))
    finish(entry, file, tag)
  }

  /// Ends both directions of a connection; its operations in flight complete.
  package mutating func shutdown(_ file: RingFile, _ tag: OperationTag) {
    let entry = entry()
    io_uring_prep_shutdown(entry, file.number, Int32(SHUT_RDWR))
    finish(entry, file, tag)
  }

  /// Closes a descriptor that is not installed (`remove` it first).
  package mutating func close(_ descriptor: Int32, _ tag: OperationTag) {
    let entry = entry()
    io_uring_prep_close(entry, descriptor)
    entry.pointee.user_data = tag.rawValue
  }

  /// Asks that the operation called `target` end early (its result is then `-ECANCELED`). It
  /// completes once in any case; this request's own completion only says whether it was found.
  package mutating func cancel(_ target: OperationTag, _ tag: OperationTag) {
    let entry = entry()
    io_uring_prep_cancel64(entry, target.rawValue, 0)
    entry.pointee.user_data = tag.rawValue
  }

  /// Asks that everything in flight on a file end early.
  package mutating func cancelAll(_ file: RingFile, _ tag: OperationTag) {
    let entry = entry()
    // Looked up by descriptor: a registered file matches, since both lead to the same open file.
    io_uring_prep_cancel_fd(entry, file.descriptor, UInt32(IORING_ASYNC_CANCEL_ALL))
    entry.pointee.user_data = tag.rawValue
  }
}

extension RingFile {
  /// What the kernel expects in an entry: the place in the table, or the descriptor.
  var number: Int32 { slot >= 0 ? slot : descriptor }
}

/// A piece of memory to send: laid out as the kernel's `iovec`.
package struct SendVector: BitwiseCopyable {
  /// The most vectors in one message (`IOV_MAX`).
  package static let limit = 1024
  package nonisolated(unsafe) var base: UnsafeRawPointer?
  package var count: Int

  package init(_ base: UnsafeRawPointer?, _ count: Int) {
    self.base = base
    self.count = count
  }
}

/// What the kernel reads while a message is being sent; keep one for each send in flight.
package struct SendHeader {
  private var message = msghdr()
  package init() {}
}
