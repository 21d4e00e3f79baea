# Sets CMAKE_CUDA_ARCHITECTURES, unless it is given, to those of our target GPUs that nvcc knows.

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR
    "nvcc was not found: looked at CMAKE_CUDA_COMPILER, CUDACXX and PATH.\n"
    "Install the CUDA toolkit, or give its path: -DCMAKE_CUDA_COMPILER=/usr/local/cuda/bin/nvcc")
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  # Turing to Blackwell; the tests read the next line. A Jetson (87 is Orin; 110 is Thor, which was 101
  # before CUDA 13) cannot run code that is compiled for graphics cards of its generation.
  set(wanted 75 80 86 87 89 90 100 103 110 120 121)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch
    OUTPUT_VARIABLE known RESULT_VARIABLE status ERROR_QUIET)
  if(status EQUAL 0)
    foreach(architecture IN LISTS wanted)
      if(known MATCHES "compute_${architecture}[^0-9a-z]")
        list(APPEND CMAKE_CUDA_ARCHITECTURES ${architecture})
      endif()
    endforeach()
  endif()
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    message(FATAL_ERROR
      "${CMAKE_CUDA_COMPILER} knows none of the architectures ${wanted}.\n"
      "Install another CUDA toolkit, or choose others: -DCMAKE_CUDA_ARCHITECTURES=70")
  endif()
endif()
set(CMAKE_CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}" CACHE STRING "GPUs to compile for, such as 75;80;90" FORCE)
message(STATUS "CUDA architectures: ${CMAKE_CUDA_ARCHITECTURES}")
