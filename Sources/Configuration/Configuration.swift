import DiskFormat

/// The configuration: one TOML file, read into values that are right or not read at all.
///
///     text ─► TOMLKit ─► ConfigurationReader ─► PoolConfiguration
///       └───► KeyLines ──────┘ (on which line a key stands: TOMLKit does not tell)
///
/// Invariants of a `PoolConfiguration` that exists:
/// - K1: it names one to eight tiers, each with a name of its own and at least one device, and no
///   device path twice.
/// - K2: every size is in bytes, a multiple of 4096 and at least its minimum.
/// - K3: the server is reachable: a unix socket, a TCP address, or both.
/// - K4: every mistake of the file was reported, not only the first, with file, line, key, what
///   was expected and what was found.
///
/// What the file cannot know (whether devices exist, are busy, are the same under two names) is
/// checked by whoever opens them; `mistake(at:…)` gives such findings the same form.
package struct PoolConfiguration: Sendable, Equatable {
  /// The file it came from, for messages.
  package var file: String
  /// Bytes the server may use, all of it taken at start.
  package var memory: UInt64
  package var volume: VolumeSettings
  package var listen: ListenSettings
  /// nil: without encryption.
  package var tls: TLSSettings?
  package var log: LogSettings
  package var limits: LimitSettings
  /// In order, the fastest first; 1 to 8.
  package var tiers: [TierSettings]
  var lines: KeyLines

  /// The devices of all tiers, in the order in which the pool counts them.
  package var devices: [(tier: Int, number: Int, settings: DeviceSettings)] {
    tiers.enumerated().flatMap { tier, settings in
      settings.devices.enumerated().map { (tier, $0, $1) }
    }
  }

  /// A mistake that came to light after reading, at a key of the file.
  package func mistake(at key: String, expected: String, found: String) -> ConfigurationMistake {
    ConfigurationMistake(
      file: file, line: lines.line(of: key), key: key, expected: expected, found: found)
  }

  /// The key of a device's table, as mistakes name it.
  package static func deviceKey(tier: Int, number: Int) -> String {
    "tier[\(tier)].devices[\(number)]"
  }
}

/// `[volume]`: what is exported.
package struct VolumeSettings: Sendable, Equatable {
  /// The NBD export's name; also names the control socket of a server without a unix socket.
  package var name: String
  /// Bytes, virtual: may exceed what the pool holds.
  package var size: UInt64
  /// Clients may not write.
  package var isReadOnly = false
}

/// `[listen]`: where clients connect.
package struct ListenSettings: Sendable, Equatable {
  /// An absolute path.
  package var unix: String?
  /// Permissions of the unix socket; only bits for reading and writing.
  package var unixMode: UInt32 = 0o600
  /// The unix socket's owner and group, names or numbers; nil leaves it as the kernel makes it.
  package var unixOwner: String?
  package var unixGroup: String?
  /// Users, names or numbers, who may connect to the unix socket; nil is whoever its permissions
  /// let in.
  package var unixUsers: [String]?
  package var tcp: [TCPAddress] = []
  /// A port of vsock, for virtual machines of this host or for the host of this one.
  package var vsock: UInt32?
  /// Other machines may connect without encryption.
  package var allowsPlaintext = false
}

/// An address and a port.
package struct TCPAddress: Sendable, Equatable, CustomStringConvertible {
  /// A numeric address: `127.0.0.1`, `::1`; `0.0.0.0` and `::` are all of the machine's of one
  /// version, `*` all of both.
  package var host: String
  package var port: UInt16
  /// Only this machine reaches it.
  package var isLoopback: Bool { host.hasPrefix("127.") || host == "::1" }
  package var isVersion6: Bool { host.utf8.contains(UInt8(ascii: ":")) }
  package var description: String { isVersion6 ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// `[tls]`: encryption, and who may come in. Paths are absolute.
package struct TLSSettings: Sendable, Equatable {
  package enum Mode: String, Sendable { case off, allowed, required }

  package var mode = Mode.off
  /// PEM: the server's certificate with those up to its authority, and its key.
  package var certificate: String?
  package var key: String?
  /// PEM: who signs clients' certificates; then each client must have one.
  package var authority: String?
  /// PEM: certificates that were revoked.
  package var revoked: String?
  /// Names that may come in; nil is whoever was verified.
  package var clients: [String]?
  /// Lines of `name:hexadecimal key`.
  package var sharedKeys: String?
}

/// `[limits]`: what one peer may cost. What the file leaves out is the server's to choose.
package struct LimitSettings: Sendable, Equatable {
  package var handshakeSeconds: Int?
  package var connectionsInHandshake: Int?
  package var connections: Int?
  package var options: Int?
  /// Bytes of one option's data.
  package var optionData: Int?
  /// Bytes of a name or a query.
  package var stringBytes: Int?
  package var metaQueries: Int?
  package var metaContexts: Int?
  package var requestsInFlight: Int?
  package var bytesInFlight: Int?
  /// Bytes of one request's payload.
  package var payload: Int?
  package var sendSeconds: Int?
  /// How long a stop may take.
  package var stopSeconds: Int?
  /// Bytes for all connections and what they send and receive; nil is an eighth of the memory, at
  /// most 64 MiB.
  package var clientMemory: Int?

  package init() {}
}

/// `[log]`: the write log on the first tier, and the ring in front of it.
package struct LogSettings: Sendable, Equatable {
  /// Bytes; nil leaves it to `defaultSize`.
  package var size: UInt64?
  /// The directory of the staging ring; nil leaves it to the server.
  package var staging: String?
  /// Whether whole extents of long writes go straight to their homes.
  package var placedWrites = true

  /// What the log takes when the file does not say: an eighth of the first tier, at most 8 GiB
  /// and at most 24 times the memory, in whole units of `segment` bytes.
  package static func defaultSize(
    firstTierBytes: UInt64, memory: UInt64, segment: UInt64
  ) -> UInt64 {
    let wanted = min(firstTierBytes / 8, 8 << 30, memory * ConfigurationLimits.logPerMemory)
    return max(wanted, ConfigurationLimits.minimumLog) / segment * segment
  }
}

/// `[[tier]]`.
package struct TierSettings: Sendable, Equatable {
  package var name: String
  package var devices: [DeviceSettings]
}

/// One element of a tier's `devices`.
package struct DeviceSettings: Sendable, Equatable {
  /// An absolute path of a block device or a regular file.
  package var path: String
  /// Bytes; given for regular files only, which `format` then makes.
  package var size: UInt64?
  /// Whether the device seeks; nil takes what the kernel says.
  package var isRotational: Bool?
}

/// The numbers that bound a configuration.
package enum ConfigurationLimits {
  package static let tiers = Layout.maxTiers
  package static let devices = Layout.maxDevices
  /// Below this no memory plan fits; the plan itself says how much a pool needs.
  package static let minimumMemory: UInt64 = 192 << 20
  package static let minimumVolume: UInt64 = 1 << 20
  package static let maximumVolume = Superblock.largestVolume
  /// Sixteen segments of 8 MiB, so that each of the four generations has four.
  package static let minimumLog: UInt64 = 128 << 20
  /// Index and buffers of the log stay within the memory: 5.3 MiB a GiB of log.
  package static let logPerMemory: UInt64 = 24
  package static let minimumDevice: UInt64 = 16 << 20
  /// Bytes of a name, as the superblock holds them.
  package static let volumeNameBytes = Layout.maxVolumeName
  package static let tierNameBytes = Layout.maxTierName
  /// A unix socket's path has at most 107 bytes; `.control` is appended for the control socket.
  package static let socketPathBytes = 107 - 8
}
