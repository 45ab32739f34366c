import Administration
import Base
import Configuration
import DeviceIO
import DiskFormat
import Glibc
import Logging
import Rebalancing
import RingIO
import Server
import Synchronization
import VolumeEngine

extension Rebalancer: PlacementPolicy {}

/// A pool being served: joins configuration, devices, engine, policy, loop and control plane.
///
///     configuration ─► devices owned, found to be one pool ─► memory plan ─► arena, staging
///       ─► engine recovered ─► listeners ─► control socket ─► loop … until it is told to stop
final class ServedPool {
  private let configuration: PoolConfiguration
  private let pool: OpenedPool
  private let plan: MemoryPlan
  private let options: VolumeOptions
  private let logger: Logger

  /// Opens and owns the devices; refuses what does not belong together or does not fit.
  init(
    _ configuration: PoolConfiguration, acceptLostRing: Bool, logger: Logger
  ) throws {
    self.configuration = configuration
    self.logger = logger
    pool = try OpenedPool.open(configuration, access: .exclusive)
    for note in pool.notes { logger.warning("\(note)") }
    plan = try MemoryBudget.plan(configuration, pool.superblock)
    let boot = SystemFile.bootID()
    guard let bootID = Identity(boot) else {
      throw Refusal("This boot's identity cannot be read (/proc/sys/kernel/random/boot_id).")
    }
    var options = VolumeOptions(bootID: bootID, memory: plan)
    options.acceptLostRing = acceptLostRing
    options.volumeSize = configuration.volume.size
    options.placedWrites = configuration.log.placedWrites
    self.options = options
  }

  /// Serves until it is told to stop, or a successor asks for what `Handover` has. With one of
  /// these it goes on where another server was; `mayServe` is asked when nothing can fail any more.
  func serve(
    signals: SignalDescriptor, _ handed: Handover?, mayServe: () throws -> Void
  ) throws -> ServedOutcome {
    try checkPool(handed)
    let staging = try makeStaging()
    let region = try MemoryRegion(size: plan.arenaBytes, populated: true, hugePages: true)
    // SAFETY: the region outlives volume and loop, which are gone when `Server.run` returns.
    var arena = Arena(base: region.base, capacity: region.count)
    let clients = UnsafeMutableRawBufferPointer(
      start: arena.take(plan.clientBytes), count: plan.clientBytes)
    let policy = Rebalancer(
      RebalancerSettings(
        volumeSize: max(pool.superblock.volumeSize, configuration.volume.size),
        heatBytes: plan.heatBytes),
      now: MonotonicClock.now())
    let volume = try openVolume(staging, &arena, policy)

    let inherited = handed == nil
      ? try ServiceManager.inheritedListeners(allowsRemote: configuration.allowsRemote) : []
    if !inherited.isEmpty {
      logger.notice("the service manager's sockets are served in place of those under [listen]")
    }
    let changeable = try handed?.inForce ?? configuration.makeChanges()
    var server = makeConfiguration(changeable)
    let listeners = try makeListeners(handed, inherited)
    var isBegun = false
    defer { if !isBegun { Listeners.close(listeners, but: (handed?.listeners ?? []) + inherited) } }
    let mailbox = try makeMailbox(handed)
    let reload = Reload(configuration, listeners, mailbox, logger)
    server.tell = ServiceManager.makeTeller { reload.begin() }
    let successor = Successor()
    let control = try ControlServer(
      path: try ControlSocket.path(for: configuration),
      takeover: { successor.offer($0, mailbox) }, answer: makeAnswer(mailbox))
    try control.start()
    defer { control.stop() }
    let removesPaths = handed?.removesPaths ?? inherited.isEmpty
    var registered = [RegisteredMemory(region.bytes, name: "the server's memory")]
    if let ring = staging.current { registered.append(RegisteredMemory(ring, name: "the ring")) }
    let outcome = try Server.run(
      server, volume: volume, devices: pool.devices.devices, listeners: listeners,
      signals: signals, clientMemory: clients, registered: registered,
      removesPaths: removesPaths, handed: handed?.connections ?? [], mailbox: mailbox,
      logger: logger, begins: { try mayServe(); isBegun = true })
    // The region's pages belong to the loop until here.
    withExtendedLifetime(region.base) {}
    switch outcome {
    case .stopped: return .stopped
    case .handedOver(let connections):
      guard let socket = successor.socket else { return .stopped }
      return .handedOver(
        Handover(
          pool: "\(pool.label.pool)", listeners: listeners, connections: connections,
          removesPaths: removesPaths, inForce: mailbox.inForce ?? changeable),
        HandoverChannel(socket))
    }
  }

  /// Refuses to go on for clients of another pool.
  private func checkPool(_ handed: Handover?) throws {
    let identity = "\(pool.label.pool)"
    guard let handed, handed.pool != identity else { return }
    throw Refusal(
      "The running server serves pool \(handed.pool ?? "?"), these devices are pool \(identity).",
      "Its clients cannot go on with another volume: stop it, then start this one.")
  }

  /// A server that goes on has room for as many connections as at its start; then the limits hold
  /// that were in force.
  private func makeMailbox(_ handed: Handover?) throws -> Mailbox {
    let mailbox = try Mailbox()
    if var again = handed?.inForce {
      again.volumeSize = 0
      mailbox.change(again)
    }
    return mailbox
  }

  /// The service manager's sockets are served as they are, also by a successor; and so are those
  /// of a server that goes on.
  private func makeListeners(_ handed: Handover?, _ inherited: [Listener]) throws -> [Listener] {
    if let handed, handed.inForce != nil {
      // The successor that failed may have changed them.
      if handed.removesPaths { Listeners.permit(handed.listeners, configuration) }
      return handed.listeners
    }
    let listeners =
      if let handed, !handed.removesPaths {
        handed.listeners
      } else if !inherited.isEmpty {
        inherited
      } else {
        try Listeners.open(configuration, keeping: handed?.listeners ?? [])
      }
    try ServiceManager.check(listeners, allowsRemote: configuration.allowsRemote)
    return listeners
  }

  private func makeConfiguration(_ changeable: ServerChanges) -> ServerConfiguration {
    var server = ServerConfiguration(
      volumeName: configuration.volume.name, description: "Thermocline, a tiered volume")
    server.limits.take(configuration.limits)
    server.tls = changeable.tls
    server.credentials = changeable.credentials
    server.unixUsers = changeable.unixUsers
    if let seconds = configuration.limits.stopSeconds {
      server.stopTime = Milliseconds(UInt64(seconds) * 1000)
    }
    server.isReadOnly = configuration.volume.isReadOnly
    server.isRotational = (0..<pool.devices.count).allSatisfy {
      pool.devices.geometry(of: DeviceIndex($0)).isRotational
    }
    return server
  }

  private func openVolume(
    _ staging: RingStore, _ arena: inout Arena, _ policy: Rebalancer
  ) throws -> Volume {
    do {
      let volume = try Volume.open(
        devices: pool.devices, staging: staging, arena: &arena, options: options, policy: policy,
        now: MonotonicClock.now())
      staging.forgetOldRings()
      return volume
    } catch {
      throw Refusal("The pool cannot be opened: \(error.message)")
    }
  }

  /// The store of staging rings. A configured directory that cannot be used is refused; without
  /// any usable one the server goes on and waits for the device before it acknowledges.
  private func makeStaging() throws -> RingStore {
    do {
      return RingStore(
        try StagingDirectory(configured: configuration.log.staging), logger: logger)
    } catch {
      if configuration.log.staging != nil {
        throw ConfigurationError(mistakes: [
          configuration.mistake(
            at: "log.staging", expected: "a usable directory on tmpfs", found: "\(error)")
        ])
      }
      logger.warning("\(error)")
      return RingStore(nil, logger: logger)
    }
  }

  /// What the control socket answers, on its own thread.
  private func makeAnswer(_ mailbox: Mailbox) -> ControlServer.Answer {
    let facts = StatusFacts(configuration, pool, plan)
    let logger = logger
    return { path in
      guard path == "/status" else { return nil }
      do {
        return (200, try facts.report(mailbox.freshSnapshot()).encoded())
      } catch {
        logger.error("status cannot be encoded: \(error)")
        return (500, Array(#"{"error":"status cannot be encoded"}"#.utf8))
      }
    }
  }
}

/// How serving ended.
enum ServedOutcome {
  case stopped
  case handedOver(Handover, HandoverChannel)
}

/// The one successor that has asked, known to the control socket's thread and to who waits for it.
private final class Successor: Sendable {
  private let asked = Mutex<Int32?>(nil)

  var socket: Int32? { asked.withLock { $0 } }

  /// Takes a successor's socket, unless one has asked already.
  func offer(_ socket: Int32, _ mailbox: Mailbox) -> Bool {
    let isFirst = asked.withLock { known in
      guard known == nil else { return false }
      known = socket
      return true
    }
    if isFirst { mailbox.requestHandover() }
    return isFirst
  }
}

extension Mailbox {
  /// A snapshot taken after this call began; after half a second the newest there is.
  fileprivate func freshSnapshot() -> ServerSnapshot {
    let before = snapshot.uptime
    requestSnapshot()
    for _ in 0..<100 {
      let now = snapshot
      if now.uptime != before { return now }
      usleep(5000)
    }
    return snapshot
  }
}
