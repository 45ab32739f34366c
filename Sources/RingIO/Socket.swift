// Its headers hold socket.h, too: without it a clean debug build finds no SOCK_STREAM.
internal import CPlatform
internal import CURing
import Glibc

/// What is done to sockets outside the ring: making, connecting, naming.
package enum Socket {
  /// Connects, waiting for it: for commands and tests. The descriptor is the caller's.
  package static func connect(to address: SocketAddress) throws(SystemError) -> Int32 {
    let candidates: [KernelAddress]
    switch address {
    case .unix(let path):
      guard let target = KernelAddress(path: path) else {
        throw SystemError("connect", on: path, code: ENAMETOOLONG)
      }
      candidates = [target]
    case .tcp(let host, let port):
      candidates = try KernelAddress.resolve(host: host, port: port, listening: false)
    case .vsock(let context, let port):
      candidates = [KernelAddress(context: context, vsockPort: port)]
    }
    var code = ENXIO
    for candidate in candidates {
      let descriptor = try make(candidate.family)
      if candidate.isInternet { prepareTCP(descriptor) }
      code = candidate.apply(Glibc.connect, descriptor)
      if code == 0 { return descriptor }
      close(descriptor)
    }
    throw SystemError("connect", on: address.description, code: code)
  }

  /// Two connected unix sockets; both descriptors are the caller's.
  package static func pair() throws(SystemError) -> (Int32, Int32) {
    var ends: (Int32, Int32) = (-1, -1)
    let result = withUnsafeMutableBytes(of: &ends) {
      socketpair(
        AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0,
        $0.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: Int32.self))
    }
    guard result == 0 else { throw .last("socketpair") }
    return ends
  }

  /// The peer of a connection for the log: `127.0.0.1:40012`, or `uid 1000, process 4711` for a
  /// unix socket.
  package static func peerName(_ descriptor: Int32) -> String {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let known = withUnsafeMutableBytes(of: &storage) {
      getpeername(
        descriptor, $0.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: sockaddr.self),
        &length)
    }
    guard known == 0 else { return "unknown" }
    if Int32(storage.ss_family) == AF_UNIX { return unixPeer(descriptor) }
    if Int32(storage.ss_family) == AF_VSOCK {
      let (context, port) = vsock(storage)
      return "virtual machine \(context), port \(port)"
    }
    var host = [CChar](repeating: 0, count: 64)
    var service = [CChar](repeating: 0, count: 16)
    let code = withUnsafeBytes(of: &storage) {
      getnameinfo(
        $0.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: sockaddr.self), length, &host,
        64, &service, 16, NI_NUMERICHOST | NI_NUMERICSERV)
    }
    guard code == 0 else { return "unknown" }
    let name = text(host)
    return (name.utf8.contains(UInt8(ascii: ":")) ? "[\(name)]" : name) + ":" + text(service)
  }

  private static func vsock(_ storage: sockaddr_storage) -> (context: UInt32, port: UInt32) {
    withUnsafeBytes(of: storage) {
      let address = $0.loadUnaligned(as: sockaddr_vm.self)
      return (address.svm_cid, address.svm_port)
    }
  }

  private static func unixPeer(_ descriptor: Int32) -> String {
    guard let peer = credentials(descriptor) else { return "unix" }
    return "uid \(peer.user), process \(peer.process)"
  }

  /// The user who connected to a unix socket, as the kernel knows it; nil when it does not.
  package static func peerUser(_ descriptor: Int32) -> UInt32? { credentials(descriptor)?.user }

  static func peerProcess(_ descriptor: Int32) -> Int32? { credentials(descriptor)?.process }

  private static func credentials(_ descriptor: Int32) -> (process: Int32, user: UInt32)? {
    // struct ucred: process, user, group.
    var credentials: (Int32, UInt32, UInt32) = (0, 0, 0)
    var length = socklen_t(MemoryLayout.size(ofValue: credentials))
    guard getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0 else {
      return nil
    }
    return (credentials.0, credentials.1)
  }

  private static func text(_ characters: [CChar]) -> String {
    String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  static func make(_ family: Int32, _ flags: Int32 = 0) throws(SystemError) -> Int32 {
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | flags
    let descriptor = socket(family, kind, 0)
    guard descriptor >= 0 else { throw .last("socket") }
    return descriptor
  }

  /// TCP for requests and replies: no delay for small ones, and a silent peer is found dead after a
  /// minute.
  package static func prepareTCP(_ descriptor: Int32) {
    let tcp = Int32(IPPROTO_TCP)
    set(descriptor, tcp, TCP_NODELAY, 1)
    set(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
    set(descriptor, tcp, TCP_KEEPIDLE, 30)
    set(descriptor, tcp, TCP_KEEPINTVL, 10)
    set(descriptor, tcp, TCP_KEEPCNT, 3)
  }

  static func set(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
    var value = value
    setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
  }

  /// Between a virtual machine and its host.
  package static func isVsock(_ descriptor: Int32) -> Bool {
    var family: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0
      && family == AF_VSOCK
  }

  /// The peer has said that it sends no more, or is gone; what it has sent may still be there.
  package static func hasHungUp(_ descriptor: Int32) -> Bool {
    // POLLRDHUP, which Swift does not import.
    var entry = pollfd(fd: descriptor, events: 0x2000, revents: 0)
    return poll(&entry, 1, 0) > 0
  }

  static func isStream(_ descriptor: Int32) -> Bool {
    var kind: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &kind, &length) == 0
      && kind == Int32(SOCK_STREAM.rawValue)
  }

  static func localPort(_ descriptor: Int32) -> UInt16? {
    guard case .tcp(_, let port)? = localAddress(descriptor) else { return nil }
    return port
  }

  /// Where a socket is bound; nil for what is no `SocketAddress`.
  static func localAddress(_ descriptor: Int32) -> SocketAddress? {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    // SAFETY: sockaddr_storage is large enough for every kind of address, and zero behind it.
    return withUnsafeMutableBytes(of: &storage) { bytes -> SocketAddress? in
      let address = bytes.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: sockaddr.self)
      guard getsockname(descriptor, address, &length) == 0 else { return nil }
      switch Int32(address.pointee.sa_family) {
      case AF_UNIX:
        let path = bytes[2..<max(2, Int(length))].prefix { $0 != 0 }
        return path.isEmpty ? nil : .unix(path: String(decoding: path, as: UTF8.self))
      case AF_INET, AF_INET6:
        var host = [CChar](repeating: 0, count: 64)
        guard getnameinfo(address, length, &host, 64, nil, 0, NI_NUMERICHOST) == 0 else {
          return nil
        }
        // The port lies behind the family in both kinds of address, in network order.
        let port = UInt16(bigEndian: bytes.load(fromByteOffset: 2, as: UInt16.self))
        return .tcp(host: text(host), port: port)
      case AF_VSOCK:
        let address = bytes.loadUnaligned(as: sockaddr_vm.self)
        return .vsock(
          context: address.svm_cid == .max ? nil : address.svm_cid, port: address.svm_port)
      default: return nil
      }
    }
  }
}
