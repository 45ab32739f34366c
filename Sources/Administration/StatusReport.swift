import FoundationEssentials

/// What `status --json` prints: keys are the properties' names in snake case, sizes in bytes,
/// counts since the server's start.
package struct StatusReport: Codable, Equatable, Sendable {
  package var server: Server
  package var volume: Volume
  /// In order, the fastest first.
  package var tiers: [Tier]
  package var log: Log
  package var io: IO
  package var rebalance: Rebalance
  package var memory: Memory

  package init(
    server: Server, volume: Volume, tiers: [Tier], log: Log, io: IO, rebalance: Rebalance,
    memory: Memory
  ) {
    self.server = server
    self.volume = volume
    self.tiers = tiers
    self.log = log
    self.io = io
    self.rebalance = rebalance
    self.memory = memory
  }

  package struct Server: Codable, Equatable, Sendable {
    package var pid: Int32 = 0
    package var uptimeSeconds: UInt64 = 0
    package var connections: UInt64 = 0
    /// NBD URIs under which the volume is served.
    package var uris: [String] = []
    package init() {}
  }

  package struct Volume: Codable, Equatable, Sendable {
    package var name = ""
    package var sizeBytes: UInt64 = 0
    /// What the volume takes on the devices, in extents of 64 KiB; writes that only the log holds
    /// are not in it yet.
    package var mappedBytes: UInt64 = 0
    package init() {}
  }

  package struct Tier: Codable, Equatable, Sendable {
    package var name = ""
    package var index = 0
    package var capacityBytes: UInt64 = 0
    /// Data, and the pages of table and bitmaps.
    package var usedBytes: UInt64 = 0
    package var devices: [Device] = []
    package init() {}
  }

  package struct Device: Codable, Equatable, Sendable {
    package var path = ""
    /// `in-use`, `read-only`, `evacuating`, `empty`, `failed`, `missing`.
    package var state = ""
    /// Whether it is taken for a device that seeks: as configured, else as the kernel says.
    package var rotational = false
    package var readErrors: UInt64 = 0
    package var writeErrors: UInt64 = 0
    package var checksumErrors: UInt64 = 0
    package init() {}
  }

  package struct Log: Codable, Equatable, Sendable {
    package var sizeBytes: UInt64 = 0
    package var usedBytes: UInt64 = 0
    package var ringSizeBytes: UInt64 = 0
    package var ringUsedBytes: UInt64 = 0
    /// Of what clients wrote: that which went straight to homes, past the log.
    package var placedBytes: UInt64 = 0
    package init() {}
  }

  package struct IO: Codable, Equatable, Sendable {
    package var readOps: UInt64 = 0
    package var writeOps: UInt64 = 0
    package var flushOps: UInt64 = 0
    package var trimOps: UInt64 = 0
    package var readBytes: UInt64 = 0
    package var writeBytes: UInt64 = 0
    package var served = Served()
    package init() {}
  }

  /// Where reads were answered from.
  package struct Served: Codable, Equatable, Sendable {
    package var logBytes: UInt64 = 0
    package var zeroBytes: UInt64 = 0
    /// By the tier's name.
    package var tierBytes: [String: UInt64] = [:]
    package init() {}
  }

  package struct Rebalance: Codable, Equatable, Sendable {
    package var promotedBytes: UInt64 = 0
    package var demotedBytes: UInt64 = 0
    package var pendingBytes: UInt64 = 0
    package init() {}
  }

  package struct Memory: Codable, Equatable, Sendable {
    package var budgetBytes: UInt64 = 0
    /// Resident pages of the process, those shared with the staging ring included.
    package var residentBytes: UInt64 = 0
    /// Of the budget, what there is for the data of clients' requests; and what they hold of it.
    package var clientBytes: UInt64 = 0
    package var clientUsedBytes: UInt64 = 0
    package init() {}
  }

  /// The report as JSON.
  package func encoded() throws -> [UInt8] { try ReportEncoding.json(self) }

  /// Reads what `encoded` writes.
  package static func decode(_ bytes: [UInt8]) throws -> StatusReport {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return try decoder.decode(StatusReport.self, from: Data(bytes))
  }
}

/// How every report of the program becomes JSON: snake-case keys in alphabetical order, indented.
package enum ReportEncoding {
  package static func json(_ report: some Encodable) throws -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return Array(try encoder.encode(report))
  }
}
