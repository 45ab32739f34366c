import CSystemd
import Glibc
import RingIO
import Server

/// systemd, when it started the server: sockets that it passes on, and what it is told
/// (sd_listen_fds(3), sd_notify(3)). Without it nothing here has an effect.
enum ServiceManager {
  /// Tells how the server fares. With a watchdog (`WatchdogSec=` of 5 s and more) it hears once a
  /// second that the loop turns.
  static func makeTeller(
    reload: @escaping @Sendable () -> Void = {}
  ) -> @Sendable (ServerNews) -> Void {
    let isWatched = sd_watchdog_enabled(0, nil) > 0
    return { news in
      switch news {
      case .serving: tellReady()
      case .alive: if isWatched { sd_notify(0, "WATCHDOG=1") }
      case .reloading: reload()
      case .replaced(let process): sd_notify(0, "MAINPID=\(process)")
      case .stopping: sd_notify(0, "STOPPING=1\nSTATUS=Waits for clients, then for the batch.")
      }
    }
  }

  static func tellReady() { sd_notify(0, "READY=1\nSTATUS=Serving.") }

  /// The configuration is read again, until `tellReady`.
  static func tellReloading() {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    let microseconds = UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
    sd_notify(0, "RELOADING=1\nMONOTONIC_USEC=\(microseconds)")
  }

  /// What systemd told this process by its environment, for a successor that it did not start.
  static func environment() -> [String: String] {
    var values: [String: String] = [:]
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
      if let value = getenv(name) { values[name] = String(cString: value) }
    }
    return values
  }

  /// The successor takes the place of a process that systemd started, under its eyes.
  static func adopt(_ environment: [String: String]) {
    guard getenv("NOTIFY_SOCKET") == nil, environment["NOTIFY_SOCKET"] != nil else { return }
    for (name, value) in environment { setenv(name, value, 1) }
    setenv("WATCHDOG_PID", "\(getpid())", 1)
  }

  /// Refuses listeners that other machines reach, unless that is allowed.
  static func check(_ listeners: [Listener], allowsRemote: Bool) throws {
    for listener in listeners where !allowsRemote && !isLocal(listener.address) {
      throw Refusal(
        "\(listener.address), which is listened on already, is reached by other machines without "
          + "encryption.",
        "Let the socket be one with a path or a loopback address, or set tls.mode to "
          + "\"required\", or, where the network is trusted, listen.allow_plaintext to true.")
    }
  }

  /// The sockets passed on; empty when there are none. They are the server's from now on.
  static func inheritedListeners(allowsRemote: Bool) throws -> [Listener] {
    let count = sd_listen_fds(1)
    guard count >= 0 else {
      throw Refusal(
        "The service manager's sockets cannot be taken: \(String(cString: strerror(-count))).")
    }
    var listeners: [Listener] = []
    for descriptor in SD_LISTEN_FDS_START..<SD_LISTEN_FDS_START + count {
      do throws(SystemError) {
        listeners.append(try Listener.adopt(descriptor))
      } catch {
        throw Refusal(
          "Descriptor \(descriptor) from the service manager is no listening stream socket on a "
            + "path or a TCP address.",
          "A socket unit for this server has ListenStream= lines, and Accept=no.")
      }
    }
    try check(listeners, allowsRemote: allowsRemote)
    return listeners
  }

  private static func isLocal(_ address: SocketAddress) -> Bool {
    switch address {
    case .unix, .vsock: true
    case .tcp(let host, _): host.hasPrefix("127.") || host == "::1"
    }
  }
}
