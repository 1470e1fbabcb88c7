// The checksum of a trace file: CRC-32 as in zlib, PNG and Ethernet (ISO-HDLC).
#pragma once

#include <cstdint>
#include <string_view>

namespace tandem {

// Of `bytes` after bytes whose checksum was `crc`; 0 at the start.
uint32_t crc32(std::string_view bytes, uint32_t crc = 0);

}  // namespace tandem
