import Configuration
import Glibc
import RingIO

/// What a server listens on: under `[listen]`, or what the service manager passed on.
enum Listeners {
  /// Opens what the configuration wants. Of the listeners of a server that is replaced, those that
  /// are still wanted stay as they are, and the others are closed here; a unix socket whose name is
  /// gone is made anew.
  static func open(
    _ configuration: PoolConfiguration, keeping old: [Listener] = []
  ) throws -> [Listener] {
    let permissions = try UserNames.permissions(configuration)
    var listeners: [Listener] = []
    var left = old
    do throws(SystemError) {
      for address in addresses(configuration.listen) {
        if let index = left.firstIndex(where: { $0.address == address }),
          try keep(left[index], permissions)
        {
          listeners.append(left.remove(at: index))
        } else if let more = try open(address, permissions, configuration.listen) {
          listeners += more
        }
      }
    } catch {
      close(listeners, but: old)
      throw Refusal(
        "The server cannot listen: \(error).",
        "\(configuration.file) says where, under [listen]; `ss -xltp` shows who is there.")
    }
    for listener in left { listener.close() }
    return listeners
  }

  /// Closes what is not among the `old`, with its names.
  static func close(_ listeners: [Listener], but old: [Listener]) {
    for listener in listeners
    where !old.contains(where: { $0.descriptor == listener.descriptor }) {
      listener.close(removingPath: true)
    }
  }

  /// Names of unix sockets have their permissions again, where there are names.
  static func permit(_ listeners: [Listener], _ configuration: PoolConfiguration) {
    guard let permissions = try? UserNames.permissions(configuration) else { return }
    for listener in listeners { try? listener.change(permissions) }
  }

  /// False when nobody can come by it any more.
  private static func keep(
    _ listener: Listener, _ permissions: UnixPermissions
  ) throws(SystemError) -> Bool {
    do throws(SystemError) {
      try listener.change(permissions)
      return true
    } catch {
      guard error.code == ENOENT else { throw error }
      return false
    }
  }

  /// nil where `*` was asked for and the machine has no IPv6.
  private static func open(
    _ address: SocketAddress, _ permissions: UnixPermissions, _ listen: ListenSettings
  ) throws(SystemError) -> [Listener]? {
    do throws(SystemError) {
      return try Listener.open(address, permissions: permissions)
    } catch {
      let isMissing = error.code == EAFNOSUPPORT || error.code == EADDRNOTAVAIL
      guard isMissing, case .tcp("::", let port) = address,
        listen.tcp.contains(where: { $0.host == "*" && $0.port == port })
      else { throw error }
      return nil
    }
  }

  /// As the kernel names them, so that they can be compared.
  private static func addresses(_ listen: ListenSettings) -> [SocketAddress] {
    var addresses: [SocketAddress] = []
    if let path = listen.unix { addresses.append(.unix(path: path)) }
    for tcp in listen.tcp {
      let hosts = tcp.host == "*" ? ["0.0.0.0", "::"] : [canonical(tcp.host)]
      addresses += hosts.map { .tcp(host: $0, port: tcp.port) }
    }
    if let port = listen.vsock { addresses.append(.vsock(context: nil, port: port)) }
    return addresses
  }

  /// The usual spelling of an address in numbers: `::1` for `0:0::1`.
  private static func canonical(_ host: String) -> String {
    var address = in6_addr()
    var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    guard inet_pton(AF_INET6, host, &address) == 1,
      inet_ntop(AF_INET6, &address, &text, socklen_t(text.count)) != nil
    else { return host }
    return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
