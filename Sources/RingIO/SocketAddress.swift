// Its headers hold socket.h, too: without it a clean debug build finds no SOCK_STREAM.
internal import CPlatform
internal import CURing
import Glibc

/// Where a server listens or a client connects.
package enum SocketAddress: Hashable, Sendable, CustomStringConvertible {
  case unix(path: String)
  /// A name or number, v4 or v6; `*` (to listen) is every address of the machine.
  case tcp(host: String, port: UInt16)
  /// Between a virtual machine and its host (vsock(7)); nil is any context.
  case vsock(context: UInt32?, port: UInt32)

  package var description: String {
    switch self {
    case .unix(let path): "unix:\(path)"
    case .tcp(let host, let port):
      host.utf8.contains(UInt8(ascii: ":")) ? "tcp:[\(host)]:\(port)" : "tcp:\(host):\(port)"
    case .vsock(let context, let port): "vsock:\(context.map { "\($0)" } ?? "*"):\(port)"
    }
  }
}

/// One concrete address as the kernel wants it.
struct KernelAddress {
  let family: Int32
  private var storage = sockaddr_storage()
  private let length: socklen_t

  /// The address of a unix socket, or nil when the path is empty or longer than 107 bytes.
  init?(path: String) {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    let room = MemoryLayout.size(ofValue: address.sun_path)
    guard !bytes.isEmpty, bytes.count < room, !bytes.contains(0) else { return nil }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    family = AF_UNIX
    length = socklen_t(MemoryLayout<sockaddr_un>.size)
    // SAFETY: sockaddr_storage is large enough for every kind of address.
    withUnsafeMutableBytes(of: &storage) { target in
      withUnsafeBytes(of: &address) { target.copyMemory(from: $0) }
    }
  }

  init(context: UInt32?, vsockPort port: UInt32) {
    family = AF_VSOCK
    var address = sockaddr_vm()
    address.svm_family = sa_family_t(AF_VSOCK)
    // VMADDR_CID_ANY.
    address.svm_cid = context ?? .max
    address.svm_port = port
    length = socklen_t(MemoryLayout<sockaddr_vm>.size)
    withUnsafeMutableBytes(of: &storage) { target in
      withUnsafeBytes(of: &address) { target.copyMemory(from: $0) }
    }
  }

  init(_ information: addrinfo) {
    family = information.ai_family
    length = information.ai_addrlen
    let source = UnsafeRawBufferPointer(start: information.ai_addr, count: Int(length))
    withUnsafeMutableBytes(of: &storage) { $0.copyMemory(from: source) }
  }

  /// Every address that a host's name stands for.
  static func resolve(
    host: String, port: UInt16, listening: Bool
  ) throws(SystemError) -> [KernelAddress] {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    hints.ai_flags = AI_NUMERICSERV | (listening ? AI_PASSIVE : 0)
    var list: UnsafeMutablePointer<addrinfo>? = nil
    let name = host == "*" || host.isEmpty ? nil : host
    let code = getaddrinfo(name, String(port), &hints, &list)
    guard code == 0 else {
      throw SystemError("getaddrinfo", on: host, code: code == EAI_SYSTEM ? errno : ENXIO)
    }
    defer { freeaddrinfo(list) }
    var addresses: [KernelAddress] = []
    var item = list
    while let information = item?.pointee {
      addresses.append(KernelAddress(information))
      item = information.ai_next
    }
    return addresses
  }

  /// TCP's.
  var isInternet: Bool { family == AF_INET || family == AF_INET6 }

  /// Calls `bind` or `connect`; 0, or a positive errno.
  func apply(
    _ call: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32, _ descriptor: Int32
  ) -> Int32 {
    withUnsafeBytes(of: storage) {
      // SAFETY: the storage holds an address of `family`, `length` bytes long.
      let address = $0.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: sockaddr.self)
      return call(descriptor, address, length) == 0 ? 0 : errno
    }
  }
}
