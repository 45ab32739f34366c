// swift-tools-version: 6.2
import PackageDescription

// The house. Arrows point only to the targets named in `dependencies`; Tests/Tidy checks the
// import lines against the table in README.md.

let strict: [SwiftSetting] = [
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .treatAllWarnings(as: .error),
]

func room(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
  .testTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

let argumentParser = Target.Dependency.product(
  name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
  name: "thermocline",
  products: [.executable(name: "thermocline", targets: ["thermocline"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/LebJe/TOMLKit", from: "0.6.0"),
  ],
  targets: [
    // System libraries and the little C that Swift cannot say.
    .systemLibrary(name: "CURing", pkgConfig: "liburing", providers: [.apt(["liburing-dev"])]),
    .systemLibrary(name: "CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
    .systemLibrary(
      name: "CSystemd", pkgConfig: "libsystemd", providers: [.apt(["libsystemd-dev"])]),
    .systemLibrary(name: "CGnuTLS", pkgConfig: "gnutls", providers: [.apt(["libgnutls28-dev"])]),
    .systemLibrary(name: "CBlkid", pkgConfig: "blkid", providers: [.apt(["libblkid-dev"])]),
    .systemLibrary(name: "CLibNBD", pkgConfig: "libnbd", providers: [.apt(["libnbd-dev"])]),
    .systemLibrary(
      name: "CNetlink", pkgConfig: "libnl-genl-3.0", providers: [.apt(["libnl-genl-3-dev"])]),
    .target(name: "CPlatform"),

    // The rooms, from the ground up.
    room("Base", ["CISAL"]),
    room("DiskFormat", ["Base"]),
    room("DeviceIO", ["Base"]),
    room("VolumeEngine", ["Base", "DiskFormat", "DeviceIO"]),
    room("Rebalancing", ["Base"]),
    room("NBDProtocol", ["Base"]),
    room("TLS", ["Base", "CGnuTLS"]),
    room("RingIO", ["Base", "DeviceIO", "CURing", "CPlatform"]),
    room(
      "Server",
      [
        "Base", "DiskFormat", "DeviceIO", "VolumeEngine", "Rebalancing", "NBDProtocol", "RingIO",
        "TLS", .product(name: "Logging", package: "swift-log"),
      ]),
    room("Administration", ["Base", "VolumeEngine"]),
    room("Configuration", ["DiskFormat", .product(name: "TOMLKit", package: "TOMLKit")]),
    .executableTarget(
      name: "thermocline",
      dependencies: [
        "Base", "DiskFormat", "DeviceIO", "VolumeEngine", "Rebalancing", "NBDProtocol", "RingIO",
        "Server", "TLS", "Administration", "Configuration", "CBlkid", "CSystemd", "CPlatform",
        "CNetlink", "CLibNBD", argumentParser,
        .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: strict),

    // Tests mirror Sources.
    .target(name: "CAllocationCount", path: "Tests/Support/CAllocationCount"),
    .target(
      name: "Simulator",
      dependencies: ["Base", "DiskFormat", "DeviceIO", "VolumeEngine", "Rebalancing"],
      path: "Tests/Simulator", swiftSettings: strict),
    .executableTarget(
      name: "thermocline-simulate", dependencies: ["Simulator", "VolumeEngine", argumentParser],
      path: "Tests/SimulatorCommand", swiftSettings: strict),
    .target(
      name: "DecoderChecks",
      dependencies: [
        "Base", "DiskFormat", "NBDProtocol", "RingIO", "TLS", "Server", "Administration",
        "Configuration",
      ],
      path: "Tests/Support/DecoderChecks", swiftSettings: strict),
    .executableTarget(
      name: "thermocline-fuzz", dependencies: ["DecoderChecks"], path: "Tests/Fuzz",
      exclude: ["Corpus", "run", "seeds"], swiftSettings: strict),
    .executableTarget(
      name: "thermocline-load", dependencies: ["Base", "CLibNBD", argumentParser],
      path: "Tests/Load", swiftSettings: strict),
    tests("BaseTests", ["Base"]),
    tests("DiskFormatTests", ["Base", "DiskFormat"]),
    tests("VolumeEngineTests", ["Base", "DiskFormat", "DeviceIO", "VolumeEngine", "Simulator"]),
    tests("RebalancingTests", ["Base", "Rebalancing"]),
    tests("NBDProtocolTests", ["Base", "NBDProtocol", "DecoderChecks"]),
    tests("RingIOTests", ["Base", "DeviceIO", "RingIO", "CAllocationCount"]),
    tests(
      "ServerTests",
      [
        "Base", "DiskFormat", "DeviceIO", "VolumeEngine", "NBDProtocol", "RingIO", "Server",
        "CAllocationCount", .product(name: "Logging", package: "swift-log"),
      ]),
    tests("AdministrationTests", ["Administration"]),
    tests("ConfigurationTests", ["Configuration"]),
    tests("ThermoclineTests", ["Base", "DiskFormat", "thermocline"]),
    tests("Tidy"),
  ],
  swiftLanguageModes: [.v6]
)
