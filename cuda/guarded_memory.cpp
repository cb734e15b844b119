#include "cuda/guarded_memory.h"

#include "cuda/driver.h"
#include "ref/error.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string>

namespace rotkv::cuda {
namespace {

struct Driver {
    decltype(&::cuMemGetAllocationGranularity) granularity;
    decltype(&::cuMemAddressReserve) reserve;
    decltype(&::cuMemAddressFree) free_addresses;
    decltype(&::cuMemCreate) create;
    decltype(&::cuMemRelease) release;
    decltype(&::cuMemMap) map;
    decltype(&::cuMemUnmap) unmap;
    decltype(&::cuMemSetAccess) set_access;

    Driver() {
        find_in_driver(granularity, "cuMemGetAllocationGranularity");
        find_in_driver(reserve, "cuMemAddressReserve");
        find_in_driver(free_addresses, "cuMemAddressFree");
        find_in_driver(create, "cuMemCreate");
        find_in_driver(release, "cuMemRelease");
        find_in_driver(map, "cuMemMap");
        find_in_driver(unmap, "cuMemUnmap");
        find_in_driver(set_access, "cuMemSetAccess");
    }
};

void require_done(CUresult result, const char* what) {
    if (result == CUDA_SUCCESS) return;
    throw Error(ErrorCode::io, "cuda: guarded memory: " + std::string(what) + ": error " +
                                   std::to_string(int(result)));
}

class DeviceGuardedMemory final : public GuardedMemory {
  public:
    explicit DeviceGuardedMemory(Guard guard) : guard_(guard) {
        int device = 0;
        if (cudaGetDevice(&device) != cudaSuccess || cudaFree(nullptr) != cudaSuccess) {
            throw Error(ErrorCode::unsupported, "guarded memory: no CUDA device");
        }
        properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
        properties_.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
        properties_.location.id = device;
        require_done(driver_.granularity(&page_, &properties_, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                     "the size of a page");
    }
    ~DeviceGuardedMemory() override {
        for (const auto& [bytes, begin] : free_) give_back(begin, bytes);
        for (const auto& [memory, region] : used_) give_back(region.begin, region.bytes);
    }
    DeviceGuardedMemory(const DeviceGuardedMemory&) = delete;
    DeviceGuardedMemory& operator=(const DeviceGuardedMemory&) = delete;

    std::byte* allocate(std::size_t bytes) override {
        const std::size_t ends = (bytes + 15) / 16 * 16;
        const std::size_t whole = (ends + page_ - 1) / page_ * page_;
        const std::size_t pages = whole > 0 ? whole : page_;  // of no bytes it is not null
        const Region region = region_of(pages);
        const CUdeviceptr at = region.begin + (guard_ == Guard::back ? pages - ends : 0);
        std::byte* const memory = reinterpret_cast<std::byte*>(at);
        used_[memory] = region;
        // Kernels read whole words of 16 bytes; what lies behind the last byte is no number.
        if (cudaMemset(memory + bytes, 0xFF, ends - bytes) != cudaSuccess) {
            throw Error(ErrorCode::io, "cuda: guarded memory: the last word could not be written");
        }
        return memory;
    }

    bool release(std::byte* memory) override {
        const auto found = used_.find(memory);
        if (found == used_.end()) return false;
        free_.emplace(found->second.bytes, found->second.begin);
        used_.erase(found);
        return true;
    }

  private:
    struct Region {
        CUdeviceptr begin;
        std::size_t bytes;
    };

    // One that was released, or a new one between a page of addresses on either side. An allocation
    // of no bytes at a region's end would share its address with nobody: all regions lie apart.
    Region region_of(std::size_t bytes) {
        if (const auto found = free_.find(bytes); found != free_.end()) {
            const Region region{found->second, bytes};
            free_.erase(found);
            return region;
        }
        CUdeviceptr addresses = 0;
        require_done(driver_.reserve(&addresses, bytes + 2 * page_, page_, 0, 0), "addresses");
        const CUdeviceptr begin = addresses + page_;
        CUmemGenericAllocationHandle pages = 0;
        CUresult result = driver_.create(&pages, bytes, &properties_, 0);
        if (result == CUDA_SUCCESS) {
            result = driver_.map(begin, bytes, 0, pages, 0);
            driver_.release(pages);  // the mapping holds them
            if (result == CUDA_SUCCESS) {
                CUmemAccessDesc access{};
                access.location = properties_.location;
                access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
                result = driver_.set_access(begin, bytes, &access, 1);
                if (result != CUDA_SUCCESS) driver_.unmap(begin, bytes);
            }
        }
        if (result != CUDA_SUCCESS) driver_.free_addresses(addresses, bytes + 2 * page_);
        require_done(result, "pages");
        return {begin, bytes};
    }

    // Of a device that met a fault nothing can be given back; its process ends soon.
    void give_back(CUdeviceptr begin, std::size_t bytes) const {
        driver_.unmap(begin, bytes);
        driver_.free_addresses(begin - page_, bytes + 2 * page_);
    }

    Driver driver_;
    Guard guard_;
    CUmemAllocationProp properties_{};
    std::size_t page_ = 0;
    std::multimap<std::size_t, CUdeviceptr> free_;
    std::map<std::byte*, Region> used_;
};

}  // namespace

std::unique_ptr<GuardedMemory> make_guarded_memory(Guard guard) {
    return std::make_unique<DeviceGuardedMemory>(guard);
}

}  // namespace rotkv::cuda
