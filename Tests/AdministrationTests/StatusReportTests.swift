import Administration
import Testing

@Suite struct StatusReportTests {
  private static var report: StatusReport {
    var tier = StatusReport.Tier()
    tier.name = "fastTier"
    tier.devices = [StatusReport.Device()]
    var io = StatusReport.IO()
    io.served.tierBytes = ["fastTier": 1 << 60]
    return StatusReport(
      server: .init(), volume: .init(), tiers: [tier], log: .init(), io: io, rebalance: .init(),
      memory: .init())
  }

  /// The keys that people's scripts rely on.
  @Test(arguments: [
    "name", "size_bytes", "mapped_bytes", "index", "capacity_bytes", "used_bytes", "path", "state",
    "rotational", "read_errors", "write_errors", "checksum_errors", "read_ops", "write_ops",
    "flush_ops", "read_bytes", "write_bytes", "log_bytes", "zero_bytes", "tier_bytes",
    "promoted_bytes", "demoted_bytes", "pending_bytes", "budget_bytes", "resident_bytes",
    "client_bytes", "client_used_bytes", "volume", "tiers", "log", "io", "served", "rebalance",
    "memory", "devices",
  ])
  func has(key: String) throws {
    let text = String(decoding: try Self.report.encoded(), as: UTF8.self)
    #expect(text.contains("\"\(key)\" : "))
  }

  @Test func readsBackWhatItWrites() throws {
    #expect(try StatusReport.decode(try Self.report.encoded()) == Self.report)
  }

  /// A tier's name is a person's word, not a property: its case stays.
  @Test func keepsNamesOfTiers() throws {
    let text = String(decoding: try Self.report.encoded(), as: UTF8.self)
    #expect(text.contains("\"fastTier\" : 1152921504606846976"))
  }

  @Test func readsResidentPages() {
    let statm = "900 300 20 1 0 2 0\n"
    #expect(ProcessMemory.residentBytes(statm: statm, pageSize: 4096) == 300 * 4096)
    #expect(ProcessMemory.residentBytes(statm: "", pageSize: 4096) == 0)
    #expect(ProcessMemory.residentBytes() > 1 << 20)
  }
}
