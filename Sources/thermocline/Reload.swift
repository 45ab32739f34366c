import Configuration
import Base
import Glibc
import Logging
import RingIO
import Server
import Synchronization

/// Reading the configuration again while clients are served, on a thread of its own: the loop only
/// takes the result.
final class Reload: Sendable {
  private let running: PoolConfiguration
  private let listeners: [Listener]
  private let mailbox: Mailbox
  private let logger: Logger
  /// How often it was asked for since the last one began.
  private let wanted = Mutex(0)

  init(
    _ configuration: PoolConfiguration, _ listeners: [Listener], _ mailbox: Mailbox,
    _ logger: Logger
  ) {
    running = configuration
    self.listeners = listeners
    self.mailbox = mailbox
    self.logger = logger
  }

  /// Begins, or begins anew when the one under way is done: the newest file is read last. What
  /// comes of it is in the log.
  func begin() {
    let isFirst = wanted.withLock { count in
      count += 1
      return count == 1
    }
    guard isFirst else { return }
    guard let thread = Thread.start({ self.carryOutAll() }) else {
      wanted.withLock { $0 = 0 }
      return logger.error("the configuration cannot be read again: no thread could be made")
    }
    pthread_detach(thread)
  }

  private func carryOutAll() {
    while true {
      let before = wanted.withLock { $0 }
      carryOut()
      let isDone = wanted.withLock { count in
        count -= before
        return count == 0
      }
      if isDone { return }
    }
  }

  private func carryOut() {
    ServiceManager.tellReloading()
    do {
      let new = try PoolConfiguration.read(file: running.file)
      try ServiceManager.check(listeners, allowsRemote: new.allowsRemote)
      let changes = try new.makeChanges()
      for name in new.fixedDifferences(from: running) {
        logger.warning(
          "\(name) has changed in \(running.file): it waits for a restart or for serve --takeover")
      }
      // The loop says when it has taken them.
      mailbox.change(changes)
    } catch {
      logger.error("the configuration was not changed. \(error)")
      ServiceManager.tellReady()
    }
  }
}

extension PoolConfiguration {
  /// What may change while clients are served.
  func makeChanges() throws -> ServerChanges {
    var changes = ServerChanges()
    changes.volumeSize = volume.size
    changes.limits.take(limits)
    (changes.tls, changes.credentials) = try makeCredentials()
    changes.unixUsers = try UserNames.allowed(self)
    return changes
  }

  /// Names of what differs and cannot change while clients are served.
  fileprivate func fixedDifferences(from old: PoolConfiguration) -> [String] {
    var names: [String] = []
    func compare<T: Equatable>(_ name: String, _ part: (PoolConfiguration) -> T) {
      if part(self) != part(old) { names.append(name) }
    }
    compare("memory") { $0.memory }
    compare("[volume]") {
      var volume = $0.volume
      volume.size = 0
      return volume
    }
    compare("[listen]") {
      var listen = $0.listen
      listen.unixUsers = nil
      listen.allowsPlaintext = false
      return listen
    }
    compare("[log]") { $0.log }
    compare("[[tier]]") { $0.tiers }
    return names
  }
}
