import Administration
import Base
import Configuration
import DeviceIO
import DiskFormat
import Glibc
import RingIO
import Server
import VolumeEngine

/// What does not change while a pool is served, joined with a snapshot of what does.
struct StatusFacts: Sendable {
  private let volumeName: String
  private let budget: UInt64
  private let uris: [String]
  private let tiers: [TierSettings]
  /// By device index.
  private let states: [String]
  /// By device index.
  private let rotational: [Bool]

  init(_ configuration: PoolConfiguration, _ pool: OpenedPool, _ plan: MemoryPlan) {
    volumeName = configuration.volume.name
    budget = configuration.memory
    uris = configuration.uris
    tiers = configuration.tiers
    states = pool.superblock.devices.map { DeviceStateText.text($0.state) }
    rotational = (0..<pool.devices.count).map {
      pool.devices.geometry(of: DeviceIndex($0)).isRotational
    }
  }

  func report(_ snapshot: ServerSnapshot) -> StatusReport {
    var server = StatusReport.Server()
    server.pid = getpid()
    server.uptimeSeconds = snapshot.uptime / 1_000_000_000
    server.connections = UInt64(snapshot.clients.connections)
    server.uris = uris
    var volume = StatusReport.Volume()
    volume.name = volumeName
    volume.sizeBytes = snapshot.volume.sizeBytes
    volume.mappedBytes = snapshot.volume.mappedBytes
    var log = StatusReport.Log()
    log.sizeBytes = snapshot.volume.logSizeBytes
    log.usedBytes = snapshot.volume.logUsedBytes
    log.ringSizeBytes = snapshot.volume.ringSizeBytes
    log.ringUsedBytes = snapshot.volume.ringUsedBytes
    log.placedBytes = snapshot.volume.placedBytes
    var rebalance = StatusReport.Rebalance()
    rebalance.promotedBytes = snapshot.volume.promotedBytes
    rebalance.demotedBytes = snapshot.volume.demotedBytes
    rebalance.pendingBytes = snapshot.volume.pendingMoveBytes
    var memory = StatusReport.Memory()
    memory.budgetBytes = budget
    memory.residentBytes = ProcessMemory.residentBytes()
    memory.clientBytes = snapshot.clients.bufferBytes
    memory.clientUsedBytes = snapshot.clients.bufferBytes - snapshot.clients.bufferBytesFree
    return StatusReport(
      server: server, volume: volume, tiers: tierReports(snapshot), log: log, io: io(snapshot),
      rebalance: rebalance, memory: memory)
  }

  private func tierReports(_ snapshot: ServerSnapshot) -> [StatusReport.Tier] {
    var next = 0
    return tiers.enumerated().map { index, settings in
      var tier = StatusReport.Tier()
      tier.name = settings.name
      tier.index = index
      tier.capacityBytes = snapshot.volume.tierCapacityBytes[index]
      tier.usedBytes = snapshot.volume.tierUsedBytes[index]
      tier.devices = settings.devices.map { settings in
        var device = StatusReport.Device()
        device.path = settings.path
        device.state = next < states.count ? states[next] : ""
        device.rotational = next < rotational.count && rotational[next]
        if next < snapshot.devices.count {
          device.readErrors = snapshot.devices[next].readErrors
          device.writeErrors = snapshot.devices[next].writeErrors
          device.checksumErrors = snapshot.devices[next].checksumErrors
        }
        next += 1
        return device
      }
      return tier
    }
  }

  private func io(_ snapshot: ServerSnapshot) -> StatusReport.IO {
    let counts = snapshot.volume
    var io = StatusReport.IO()
    io.readOps = counts.readOps
    io.writeOps = counts.writeOps
    io.flushOps = counts.flushOps
    io.trimOps = counts.trimOps
    io.readBytes = counts.readBytes
    io.writeBytes = counts.writeBytes
    io.served.logBytes = counts.servedLogBytes
    io.served.zeroBytes = counts.servedZeroBytes
    for (index, tier) in tiers.enumerated() {
      io.served.tierBytes[tier.name] = counts.servedTierBytes[index]
    }
    return io
  }
}

extension PoolConfiguration {
  /// NBD URIs under which the volume is served.
  var uris: [String] {
    var uris: [String] = []
    let scheme = tls?.mode == .required ? "nbds" : "nbd"
    if let unix = listen.unix { uris.append("\(scheme)+unix:///\(volume.name)?socket=\(unix)") }
    for tcp in listen.tcp {
      let place = tcp.host == "*" ? "localhost:\(tcp.port)" : "\(tcp)"
      uris.append("\(scheme)://\(place)/\(volume.name)")
    }
    // As a virtual machine reaches its host.
    if let port = listen.vsock { uris.append("\(scheme)+vsock://2:\(port)/\(volume.name)") }
    return uris
  }
}
