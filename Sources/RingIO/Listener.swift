package import Base
import Glibc

/// A socket that accepts connections. Its descriptor is closed by `close`, not by itself, so that
/// it can be installed in a ring or handed to a successor.
package struct Listener: Sendable {
  package let descriptor: Int32
  /// What it listens on, with the real port when 0 was asked for.
  package let address: SocketAddress

  /// Takes over a descriptor that listens already (socket activation, a predecessor).
  package init(adopting descriptor: Int32, address: SocketAddress) {
    self.descriptor = descriptor
    self.address = address
  }

  /// Takes over a descriptor that somebody else made, after finding out that it listens, and where.
  package static func adopt(_ descriptor: Int32) throws(SystemError) -> Listener {
    var isListening: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    guard getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &length) == 0 else {
      throw .last("getsockopt", on: "descriptor \(descriptor)")
    }
    guard isListening == 1, Socket.isStream(descriptor),
      let address = Socket.localAddress(descriptor)
    else { throw SystemError("listen", on: "descriptor \(descriptor)", code: EINVAL) }
    return Listener(adopting: descriptor, address: address)
  }

  /// Listens on `address`: one listener for a unix socket, one for each address of a host. A
  /// unix socket left behind is removed when nobody listens on it; it has its `permissions` from
  /// the first.
  /// While the address is in use it tries again for `patience`: the ring of a killed server
  /// goes on listening for a moment.
  package static func open(
    _ address: SocketAddress, permissions: UnixPermissions = UnixPermissions(),
    backlog: Int32 = 128, patience: Milliseconds = Milliseconds(5000)
  ) throws(SystemError) -> [Listener] {
    let deadline = MonotonicClock.now() + patience
    while true {
      do throws(SystemError) {
        return try tryOpen(address, permissions, backlog)
      } catch {
        if error.code != EADDRINUSE || !(MonotonicClock.now() < deadline) { throw error }
      }
      usleep(20_000)
    }
  }

  private static func tryOpen(
    _ address: SocketAddress, _ permissions: UnixPermissions, _ backlog: Int32
  ) throws(SystemError) -> [Listener] {
    switch address {
    case .unix(let path):
      return [try openUnix(path, permissions, backlog)]
    case .vsock(let context, let port):
      let target = KernelAddress(context: context, vsockPort: port)
      return [try openPort(target, address, backlog)]
    case .tcp(let host, let port):
      var listeners: [Listener] = []
      var refusal: SystemError? = nil
      for candidate in try KernelAddress.resolve(host: host, port: port, listening: true) {
        do throws(SystemError) {
          listeners.append(try openPort(candidate, address, backlog))
        } catch {
          // A machine without IPv6 still has its other addresses.
          if error.code == EAFNOSUPPORT || error.code == EADDRNOTAVAIL {
            refusal = error
            continue
          }
          for listener in listeners { listener.close() }
          throw error
        }
      }
      if listeners.isEmpty {
        throw refusal ?? SystemError("bind", on: address.description, code: EADDRNOTAVAIL)
      }
      return listeners
    }
  }

  /// Stops listening; with `removingPath` a unix socket's name goes, too.
  package func close(removingPath: Bool = false) {
    if removingPath, case .unix(let path) = address { unlink(path) }
    Glibc.close(descriptor)
  }

  /// The name of a unix socket gets other permissions.
  package func change(_ permissions: UnixPermissions) throws(SystemError) {
    if case .unix(let path) = address { try permissions.apply(path) }
  }

  private static func openUnix(
    _ path: String, _ permissions: UnixPermissions, _ backlog: Int32
  ) throws(SystemError) -> Listener {
    guard let target = KernelAddress(path: path) else {
      throw SystemError("bind", on: path, code: ENAMETOOLONG)
    }
    let descriptor = try Socket.make(AF_UNIX)
    do throws(SystemError) {
      // Before the name exists, so that nobody connects under a wider mode.
      fchmod(descriptor, permissions.mode)
      var code = target.apply(bind, descriptor)
      if code == EADDRINUSE {
        try removeStale(path, target)
        code = target.apply(bind, descriptor)
      }
      guard code == 0 else { throw SystemError("bind", on: path, code: code) }
      try permissions.apply(path)
      guard listen(descriptor, backlog) == 0 else { throw .last("listen", on: path) }
    } catch {
      Glibc.close(descriptor)
      throw error
    }
    return Listener(adopting: descriptor, address: .unix(path: path))
  }

  /// Removes a socket that a dead server left; anything else is somebody's and stays.
  private static func removeStale(
    _ path: String, _ target: KernelAddress
  ) throws(SystemError) {
    var facts = stat()
    guard lstat(path, &facts) == 0, facts.st_mode & S_IFMT == S_IFSOCK else {
      throw SystemError("bind", on: path, code: EEXIST)
    }
    let probe = try Socket.make(AF_UNIX, Int32(SOCK_NONBLOCK.rawValue))
    defer { Glibc.close(probe) }
    guard target.apply(connect, probe) == ECONNREFUSED else {
      throw SystemError("bind", on: path, code: EADDRINUSE)
    }
    unlink(path)
  }

  /// TCP or vsock.
  private static func openPort(
    _ target: KernelAddress, _ address: SocketAddress, _ backlog: Int32
  ) throws(SystemError) -> Listener {
    let name = address.description
    let descriptor = try Socket.make(target.family)
    do throws(SystemError) {
      Socket.set(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
      // `*` gives a v4 and a v6 socket; neither serves the other's peers.
      if target.family == AF_INET6 { Socket.set(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1) }
      let code = target.apply(bind, descriptor)
      guard code == 0 else { throw SystemError("bind", on: name, code: code) }
      guard listen(descriptor, backlog) == 0 else { throw .last("listen", on: name) }
    } catch {
      Glibc.close(descriptor)
      throw error
    }
    if case .tcp(let host, 0) = address, let port = Socket.localPort(descriptor) {
      return Listener(adopting: descriptor, address: .tcp(host: host, port: port))
    }
    return Listener(adopting: descriptor, address: address)
  }
}

/// Who may use a unix socket's name.
package struct UnixPermissions: Sendable {
  package var mode: UInt32
  /// nil leaves it as it is.
  package var owner: UInt32? = nil
  package var group: UInt32? = nil

  package init(mode: UInt32 = 0o600) { self.mode = mode }

  fileprivate func apply(_ path: String) throws(SystemError) {
    if owner != nil || group != nil, chown(path, owner ?? .max, group ?? .max) != 0 {
      throw .last("chown", on: path)
    }
    // Wider than the process's umask, if asked for.
    guard chmod(path, mode) == 0 else { throw .last("chmod", on: path) }
  }
}
